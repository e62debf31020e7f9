"""Lineages without the columns `data_policy` and `status`, which had one value each."""

from alembic import op
import sqlalchemy as sa


revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

_VALUES = {'data_policy': 'shared', 'status': 'draft'}


def upgrade() -> None:
    for name in _VALUES:
        op.drop_column('lineages', name)


def downgrade() -> None:
    for name, value in _VALUES.items():
        op.add_column('lineages', sa.Column(name, sa.String(length=16), nullable=False, server_default=value))
