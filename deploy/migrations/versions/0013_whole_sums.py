"""Sums that `rebuild` has not added up for all clients yet, which reports leave alone."""

from alembic import op
import sqlalchemy as sa


revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('moment_cuts', sa.Column('is_whole', sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column('moment_cuts', 'is_whole')
