"""Versions that a lineage learns from."""

from alembic import op
import sqlalchemy as sa


revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('teachers',
    sa.Column('lineage', sa.String(length=64), nullable=False),
    sa.Column('artifact', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(['lineage'], ['lineages.name'], name=op.f('fk_teachers_lineage_lineages')),
    sa.PrimaryKeyConstraint('lineage', 'artifact', name=op.f('pk_teachers'))
    )


def downgrade() -> None:
    op.drop_table('teachers')
