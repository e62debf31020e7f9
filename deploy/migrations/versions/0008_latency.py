"""Time that ranking took, in the facts."""

from alembic import op
import sqlalchemy as sa


revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('session_facts', sa.Column('latency_us', sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column('session_facts', 'latency_us')
