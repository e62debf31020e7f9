"""A database of each kind with the newest schema, made once per module and emptied for each test."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete

from stream import db
from tests.harness.stores import BOTH, store_url


@pytest.fixture(scope="module", params=BOTH)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Engine on a database with all tables."""
    engine = db.create(store_url(request.param, tmp_path_factory.mktemp("store"), request))
    yield engine
    engine.dispose()


@pytest.fixture
def engine(migrated: Engine) -> Engine:
    """Engine on that database, without rows."""
    with db.transaction(migrated) as connection:
        for table in reversed(db.metadata.sorted_tables):
            connection.execute(delete(table))
    return migrated
