"""Quarantine: ranges of the log that breakers kept from being learned."""

from alembic import op
import sqlalchemy as sa


revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('quarantined_ranges',
    sa.Column('lineage', sa.String(length=64), nullable=False),
    sa.Column('number', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('from_ts', sa.BigInteger(), nullable=True),
    sa.Column('until_ts', sa.BigInteger(), nullable=False),
    sa.Column('from_cursors', sa.JSON(), nullable=False),
    sa.Column('until_offsets', sa.JSON(), nullable=False),
    sa.Column('reasons', sa.JSON(), nullable=False),
    sa.Column('numbers', sa.JSON(), nullable=False),
    sa.Column('num_sessions', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('is_open', sa.Boolean(), nullable=False),
    sa.Column('created_ts', sa.BigInteger(), nullable=False),
    sa.Column('row_version', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['lineage'], ['lineages.name'], name=op.f('fk_quarantined_ranges_lineage_lineages')),
    sa.PrimaryKeyConstraint('lineage', 'number', name=op.f('pk_quarantined_ranges')),
    sa.UniqueConstraint('lineage', 'until_ts', name=op.f('uq_quarantined_ranges_lineage'))
    )


def downgrade() -> None:
    op.drop_table('quarantined_ranges')
