"""Counts of sessions by minute, which the views of traffic read, and the source of each session."""

from alembic import op
import sqlalchemy as sa


revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None

_NAMES = ('experiment', 'arm', 'lineage', 'version', 'source')


def _time(column: str) -> str:
    if op.get_bind().dialect.name == "postgresql":
        return f"to_timestamp({column} / 1000.0)"
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {column} / 1000, 'unixepoch')"


def upgrade() -> None:
    for name in ('v_traffic', 'v_versions'):
        op.execute(f"DROP VIEW {name}")
    op.add_column('session_facts', sa.Column('source', sa.Text(), nullable=True))
    op.create_table(
        'traffic_minutes',
        sa.Column('minute_ts', sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(64), nullable=False) for name in _NAMES),
        sa.Column('currency', sa.String(3), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ('sessions', 'fallbacks', 'items', 'clicks', 'orders')
        ),
        sa.Column('gross_minor', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('minute_ts', *_NAMES, 'currency', name=op.f('pk_traffic_minutes')),
    )
    names = ", ".join(f"substr(coalesce({name}, ''), 1, 64)" for name in _NAMES)
    op.execute(f"""
        INSERT INTO traffic_minutes
        SELECT impression_ts / 60000 * 60000, {names}, currency, count(*), count(fallback), sum(n_items), sum(clicks),
               sum(orders), sum(CAST(gross_minor AS DOUBLE PRECISION))
        FROM session_facts
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    """)
    op.execute(f"""
        CREATE VIEW v_traffic AS
        SELECT {_time("minute_ts")} AS time, experiment, arm, lineage, version, source, currency,
               sessions, items, clicks, orders, gross_minor AS gmv_minor, fallbacks
        FROM traffic_minutes
    """)
    op.execute(f"""
        CREATE VIEW v_versions AS
        SELECT {_time("v.published_ts")} AS time, v.lineage, v.version, v.status,
               CAST(coalesce(t.sessions, 0) AS BIGINT) AS sessions
        FROM versions AS v
        LEFT JOIN (SELECT lineage, version, sum(sessions) AS sessions FROM traffic_minutes GROUP BY lineage, version) AS t
          ON t.lineage = v.lineage AND t.version = CAST(v.version AS TEXT)
    """)


def downgrade() -> None:
    for name in ('v_traffic', 'v_versions'):
        op.execute(f"DROP VIEW {name}")
    op.drop_table('traffic_minutes')
    op.drop_column('session_facts', 'source')
    op.execute(f"""
        CREATE VIEW v_traffic AS
        SELECT {_time("((impression_ts / 60000) * 60000)")} AS time, experiment, arm,
               count(*) AS sessions, count(DISTINCT client_id) AS clients, sum(n_items) AS items,
               sum(clicks) AS clicks, sum(orders) AS orders, sum(gross_minor) AS gmv_minor,
               sum(CASE WHEN fallback IS NOT NULL THEN 1 ELSE 0 END) AS fallbacks
        FROM session_facts
        WHERE experiment IS NOT NULL
        GROUP BY impression_ts / 60000, experiment, arm
    """)
    op.execute(f"""
        CREATE VIEW v_versions AS
        SELECT {_time("v.published_ts")} AS time, v.lineage, v.version, v.status, count(f.query_id) AS sessions
        FROM versions AS v
        LEFT JOIN session_facts AS f ON f.lineage = v.lineage AND f.version = CAST(v.version AS TEXT)
        GROUP BY v.lineage, v.version, v.published_ts, v.status
    """)
