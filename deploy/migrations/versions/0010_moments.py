"""Sums of clients and of arms that the sink keeps, and an index of orders by time."""

from alembic import op
import sqlalchemy as sa


revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'moment_cuts',
        sa.Column('experiment', sa.String(64), sa.ForeignKey('experiments.key', name=op.f('fk_moment_cuts_experiment_experiments')), nullable=False),
        sa.Column('cut', sa.String(8), nullable=False),
        sa.Column('until_ts', sa.BigInteger(), nullable=False),
        sa.Column('currency', sa.String(3), nullable=True),
        sa.Column('epochs', sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'cut', name=op.f('pk_moment_cuts')),
    )
    op.create_table(
        'arm_sums',
        sa.Column('experiment', sa.String(64), sa.ForeignKey('experiments.key', name=op.f('fk_arm_sums_experiment_experiments')), nullable=False),
        sa.Column('cut', sa.String(8), nullable=False),
        sa.Column('epoch', sa.BigInteger(), nullable=False),
        sa.Column('arm', sa.Text(), nullable=False),
        sa.Column('clients', sa.BigInteger(), nullable=False),
        sa.Column('multi_arm', sa.BigInteger(), nullable=False),
        sa.Column('buyers', sa.BigInteger(), nullable=False),
        sa.Column('clicked_buyers', sa.BigInteger(), nullable=False),
        sa.Column('sums', sa.JSON(), nullable=False),
        sa.Column('products', sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint('experiment', 'cut', 'epoch', 'arm', name=op.f('pk_arm_sums')),
    )
    op.create_table(
        'client_sums',
        sa.Column('experiment', sa.String(64), sa.ForeignKey('experiments.key', name=op.f('fk_client_sums_experiment_experiments')), nullable=False),
        sa.Column('cut', sa.String(8), nullable=False),
        sa.Column('client_id', sa.String(128), nullable=False),
        sa.Column('epoch', sa.BigInteger(), nullable=False),
        sa.Column('arm', sa.Text(), nullable=False),
        sa.Column('sums', sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint('experiment', 'cut', 'client_id', name=op.f('pk_client_sums')),
    )
    op.create_index('ix_client_orders_bought_ts', 'client_orders', ['bought_ts'])


def downgrade() -> None:
    op.drop_index('ix_client_orders_bought_ts', table_name='client_orders')
    for name in ('client_sums', 'arm_sums', 'moment_cuts'):
        op.drop_table(name)
