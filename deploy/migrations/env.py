"""Alembic environment; its connection comes from `deploy.migrations.revision.configuration`."""

from alembic import context
from sqlalchemy import Connection

import abtest.tables
import trainer.rollout.tables
import trainer.versions.tables
from deploy.migrations.revision import of_dialect
from stream.db import metadata

_REGISTERED = (abtest.tables.experiments, trainer.rollout.tables.servers, trainer.versions.tables.versions)

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    include_object=of_dialect(connection),
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
