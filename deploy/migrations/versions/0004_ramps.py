"""Ramps: plans that the controller carries out, and the events of experiments' shares."""

from alembic import op
import sqlalchemy as sa


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('ramps',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('row_version', sa.BigInteger(), nullable=False),
    sa.Column('steps', sa.JSON(), nullable=False),
    sa.Column('every_ms', sa.BigInteger(), nullable=False),
    sa.Column('checks', sa.JSON(), nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=True),
    sa.Column('held', sa.JSON(), nullable=False),
    sa.Column('held_since', sa.BigInteger(), nullable=True),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_ramps_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', name=op.f('pk_ramps'))
    )
    op.create_table('ramp_events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('event', sa.String(length=16), nullable=False),
    sa.Column('actor', sa.String(length=255), nullable=False),
    sa.Column('why', sa.String(length=255), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('share', sa.Float(), nullable=False),
    sa.Column('evidence', sa.JSON(), nullable=False),
    sa.Column('event_ts', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_ramp_events_experiment_experiments')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ramp_events'))
    )
    op.create_index(op.f('ix_ramp_events_experiment'), 'ramp_events', ['experiment'], unique=False)


def downgrade() -> None:
    op.drop_table('ramp_events')
    op.drop_table('ramps')
