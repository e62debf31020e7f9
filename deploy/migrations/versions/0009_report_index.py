"""Index that holds all that a report reads of a session, on SQLite."""

from alembic import op


revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

_COLUMNS = [
    'experiment', 'client_id', 'impression_ts', 'epoch', 'arm', 'version', 'fallback', 'latency_us', 'currency', 'n_items',
    'clicks', 'orders', 'gross_minor', 'refund_minor', 'foreign_lines',
]


def upgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.drop_index('ix_session_facts_experiment', table_name='session_facts')
        op.create_index('ix_session_facts_report', 'session_facts', _COLUMNS)


def downgrade() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.drop_index('ix_session_facts_report', table_name='session_facts')
        op.create_index('ix_session_facts_experiment', 'session_facts', ['experiment', 'client_id'])
