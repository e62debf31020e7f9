"""Looks: decisions of experiments, and the confidence sequence between them."""

from alembic import op
import sqlalchemy as sa


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

_SEQUENCE = ('cs_lo', 'cs_hi', 'cs_kind', 'cs_p')


def _sequence_columns() -> list[sa.Column[object]]:
    return [
        sa.Column('cs_lo', sa.Float(), nullable=True),
        sa.Column('cs_hi', sa.Float(), nullable=True),
        sa.Column('cs_kind', sa.String(length=16), nullable=True),
        sa.Column('cs_p', sa.Float(), nullable=True),
    ]


def _time(column: str) -> str:
    """Return SQL for a time: a timestamp in PostgreSQL, ISO 8601 text in SQLite."""
    if op.get_bind().dialect.name == "postgresql":
        return f"to_timestamp(({column}) / 1000.0)"
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', ({column}) / 1000, 'unixepoch')"


def _drop_views(*names: str) -> None:
    for name in names:
        op.execute(f"DROP VIEW {name}")


def _create_lift_views(columns: str, newest: str) -> None:
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
        WHERE id = ({newest})
    """)


_SAME = """l.experiment = r.experiment AND l.metric = r.metric AND l.arm = r.arm AND l.method = r.method"""


def upgrade() -> None:
    _drop_views("v_lift_latest", "v_lift_timeseries")
    # Columns are added without copying the table, which is large.
    for column in _sequence_columns():
        op.add_column('results', column)
    op.create_table('looks',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('arm', sa.String(length=64), nullable=False),
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=False),
    sa.Column('metric', sa.String(length=32), nullable=False),
    sa.Column('fraction', sa.Float(), nullable=False),
    sa.Column('information', sa.Float(), nullable=False),
    sa.Column('alpha', sa.Float(), nullable=False),
    sa.Column('spent', sa.Float(), nullable=False),
    sa.Column('boundary', sa.Float(), nullable=True),
    sa.Column('z', sa.Float(), nullable=False),
    sa.Column('p', sa.Float(), nullable=True),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('n_control', sa.BigInteger(), nullable=False),
    sa.Column('mean', sa.Float(), nullable=True),
    sa.Column('mean_control', sa.Float(), nullable=True),
    sa.Column('diff', sa.Float(), nullable=True),
    sa.Column('se', sa.Float(), nullable=True),
    sa.Column('lift', sa.Float(), nullable=True),
    sa.Column('lo', sa.Float(), nullable=True),
    sa.Column('hi', sa.Float(), nullable=True),
    sa.Column('set_kind', sa.String(length=16), nullable=True),
    sa.Column('is_last', sa.Boolean(), nullable=False),
    sa.Column('verdict', sa.String(length=32), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_looks_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', 'arm', 'number', name=op.f('pk_looks')),
    sa.UniqueConstraint('experiment', 'arm', 'as_of', name=op.f('uq_looks_experiment'))
    )
    # A mature row goes before a partial one, and a repeated report keeps its id.
    _create_lift_views("lo, hi, p_fixed, cs_lo, cs_hi, cs_p", f"""
        SELECT l.id FROM results AS l WHERE {_SAME}
        ORDER BY CASE WHEN l.partial THEN 1 ELSE 0 END, l.as_of DESC LIMIT 1
    """)
    op.execute(f"""
        CREATE VIEW v_looks AS
        SELECT {_time("as_of")} AS time, experiment, arm, number, metric, fraction, spent, boundary, z, p,
               lift, lo, hi, n, n_control, is_last, verdict, reason
        FROM looks
    """)


def downgrade() -> None:
    _drop_views("v_looks", "v_lift_latest", "v_lift_timeseries")
    op.drop_table('looks')
    for name in reversed(_SEQUENCE):
        op.drop_column('results', name)
    _create_lift_views("lo, hi, p_fixed", f"SELECT max(l.id) FROM results AS l WHERE {_SAME}")
