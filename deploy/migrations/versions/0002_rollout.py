"""Rollout: policies, locks, canaries, the audit of moves, reports of servers."""

from alembic import op
import sqlalchemy as sa


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def _lineage_columns() -> list[sa.Column[object]]:
    return [
        sa.Column('policy', sa.JSON(), nullable=True),
        sa.Column('pinned', sa.BigInteger(), nullable=True),
        sa.Column('frozen', sa.String(length=255), nullable=True),
        sa.Column('killed', sa.String(length=255), nullable=True),
        sa.Column('rewind_to', sa.BigInteger(), nullable=True),
        sa.Column('rewind_mode', sa.String(length=8), nullable=True),
    ]


def _version_columns() -> list[sa.Column[object]]:
    return [
        sa.Column('live_since', sa.BigInteger(), nullable=True),
        sa.Column('canary_share', sa.Float(), nullable=True),
        sa.Column('canary_since', sa.BigInteger(), nullable=True),
    ]


def _event_columns() -> list[sa.Column[object]]:
    return [
        sa.Column('command', sa.String(length=16), nullable=True),
        sa.Column('request_id', sa.String(length=64), nullable=True),
        sa.Column('before', sa.JSON(), nullable=True),
        sa.Column('after', sa.JSON(), nullable=True),
    ]


_CANARY = sa.text("status = 'canary'")


def upgrade() -> None:
    # Columns are added without copying the table, since views read some of these tables.
    for column in _lineage_columns():
        op.add_column('lineages', column)
    for column in _version_columns():
        op.add_column('versions', column)
    op.add_column('session_facts', sa.Column('slice', sa.String(length=8), nullable=True))
    op.create_index('ix_versions_one_canary', 'versions', ['lineage'], unique=True, sqlite_where=_CANARY, postgresql_where=_CANARY)
    op.execute("UPDATE versions SET live_since = published_ts WHERE status IN ('live', 'superseded')")
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.drop_constraint(op.f('fk_leases_lineage_lineages'), type_='foreignkey')
        batch_op.alter_column('lineage', new_column_name='name', existing_type=sa.String(length=64), existing_nullable=False)
    with op.batch_alter_table('rollout_events', schema=None) as batch_op:
        batch_op.alter_column('who', new_column_name='actor', existing_type=sa.String(length=255), existing_nullable=False)
        for column in _event_columns():
            batch_op.add_column(column)
        batch_op.create_index(batch_op.f('ix_rollout_events_request_id'), ['request_id'], unique=True)
    op.create_table('servers',
    sa.Column('name', sa.String(length=255), nullable=False),
    sa.Column('started_ts', sa.BigInteger(), nullable=False),
    sa.Column('seen_ts', sa.BigInteger(), nullable=False),
    sa.Column('ready', sa.Boolean(), nullable=False),
    sa.Column('map_sha256', sa.String(length=64), nullable=True),
    sa.Column('loaded', sa.JSON(), nullable=False),
    sa.Column('counts', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_servers'))
    )


def downgrade() -> None:
    op.drop_table('servers')
    with op.batch_alter_table('rollout_events', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_rollout_events_request_id'))
        for column in reversed(_event_columns()):
            batch_op.drop_column(column.name)
        batch_op.alter_column('actor', new_column_name='who', existing_type=sa.String(length=255), existing_nullable=False)
    op.execute("DELETE FROM leases WHERE name NOT IN (SELECT name FROM lineages)")
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.alter_column('name', new_column_name='lineage', existing_type=sa.String(length=64), existing_nullable=False)
    # In the batch of the new name the foreign key would be lost.
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.create_foreign_key(op.f('fk_leases_lineage_lineages'), 'lineages', ['lineage'], ['name'])
    op.drop_index('ix_versions_one_canary', table_name='versions')
    op.drop_column('session_facts', 'slice')
    for column in reversed(_version_columns()):
        op.drop_column('versions', column.name)
    for column in reversed(_lineage_columns()):
        op.drop_column('lineages', column.name)
