"""Final reports of experiments whose facts are removed."""

from alembic import op
import sqlalchemy as sa


revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('final_reports',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=False),
    sa.Column('report', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_final_reports_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', name=op.f('pk_final_reports'))
    )


def downgrade() -> None:
    op.drop_table('final_reports')
