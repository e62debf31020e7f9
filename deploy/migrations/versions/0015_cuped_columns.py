"""Lifts by CUPED beside the plain ones, and views in which a set that is no interval has no bounds."""

from alembic import op
import sqlalchemy as sa


revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None

_FLOATS = ('cuped_lift', 'cuped_cs_lo', 'cuped_cs_hi', 'cuped_cs_p', 'cuped_variance_ratio')
_BEFORE = 'lo, hi, p_fixed, cs_lo, cs_hi, cs_p'
_SAME = "l.experiment = r.experiment AND l.metric = r.metric AND l.arm = r.arm AND l.method = r.method"


def _time(column: str) -> str:
    """Return SQL for a time: a timestamp in PostgreSQL, ISO 8601 text in SQLite."""
    if op.get_bind().dialect.name == "postgresql":
        return f"to_timestamp(({column}) / 1000.0)"
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', ({column}) / 1000, 'unixepoch')"


def _create_views(columns: str, looks: str) -> None:
    op.execute(f"""
        CREATE VIEW v_lift_timeseries AS
        SELECT {_time("as_of")} AS time, experiment, metric, arm, lift, {columns},
               n, n_control, mean, mean_control, partial
        FROM results
        WHERE lift IS NOT NULL
    """)
    op.execute(f"""
        CREATE VIEW v_lift_latest AS
        SELECT {_time("as_of")} AS time, experiment, metric, arm, lift, {columns}, p_adj,
               n, n_control, mean, mean_control, verdict, reason, partial
        FROM results AS r
        WHERE id = (
            SELECT l.id FROM results AS l WHERE {_SAME}
            ORDER BY CASE WHEN l.partial THEN 1 ELSE 0 END, l.as_of DESC LIMIT 1
        )
    """)
    op.execute(f"""
        CREATE VIEW v_looks AS
        SELECT {_time("as_of")} AS time, experiment, arm, number, metric, fraction, spent, boundary, z, p,
               lift, {looks}, n, n_control, is_last, verdict, reason
        FROM looks
    """)


def _bounds(kind: str, *names: str) -> list[str]:
    """Return SQL for the roots of a set; those of one that lies outside of them are no bounds."""
    return [f"CASE WHEN {kind} = 'interval' THEN {name} END AS {name}" for name in names]


def _drop_views() -> None:
    for name in ('v_looks', 'v_lift_latest', 'v_lift_timeseries'):
        op.execute(f"DROP VIEW {name}")


def upgrade() -> None:
    _drop_views()
    for name in _FLOATS:
        op.add_column('results', sa.Column(name, sa.Float(), nullable=True))
    op.add_column('results', sa.Column('cuped_cs_kind', sa.String(length=16), nullable=True))
    fixed = _bounds('set_kind', 'lo', 'hi')
    sequences = (
        *_bounds('cs_kind', 'cs_lo', 'cs_hi'), 'cs_kind', 'cs_p',
        *_bounds('cuped_cs_kind', 'cuped_cs_lo', 'cuped_cs_hi'), 'cuped_cs_kind', 'cuped_cs_p',
        'cuped_lift', 'cuped_variance_ratio',
    )
    _create_views(', '.join((*fixed, 'p_fixed', *sequences)), ', '.join((*fixed, 'set_kind')))


def downgrade() -> None:
    _drop_views()
    for name in ('cuped_cs_kind', *reversed(_FLOATS)):
        op.drop_column('results', name)
    _create_views(_BEFORE, 'lo, hi')
