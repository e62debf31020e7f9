"""Pages of experiments, which the ranking service shows."""

from alembic import op
import sqlalchemy as sa


revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('experiment_pages',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=False),
    sa.Column('verdict', sa.Text(), nullable=False),
    sa.Column('html', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_experiment_pages_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', name=op.f('pk_experiment_pages'))
    )


def downgrade() -> None:
    op.drop_table('experiment_pages')
