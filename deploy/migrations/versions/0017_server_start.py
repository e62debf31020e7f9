"""Reports of serving processes without the column `started_ts`, which nothing read."""

from alembic import op
import sqlalchemy as sa


revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column('servers', 'started_ts')


def downgrade() -> None:
    op.add_column('servers', sa.Column('started_ts', sa.BigInteger(), nullable=False, server_default='0'))
