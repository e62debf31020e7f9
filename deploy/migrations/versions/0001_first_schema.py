"""First schema, and the views that Grafana reads."""

from alembic import op
import sqlalchemy as sa


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def _time(column: str, step_ms: int = 1) -> str:
    """Return SQL for a time rounded down to `step_ms`: a timestamp in PostgreSQL, ISO 8601 text in SQLite."""
    rounded = f"({column} / {step_ms}) * {step_ms}"
    if op.get_bind().dialect.name == "postgresql":
        return f"to_timestamp(({rounded}) / 1000.0)"
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', ({rounded}) / 1000, 'unixepoch')"


def _create_views() -> None:
    op.execute(f"""
        CREATE VIEW v_lift_timeseries AS
        SELECT {_time("as_of")} AS time, experiment, metric, arm, lift, lo, hi, p_fixed,
               n, n_control, mean, mean_control, partial
        FROM results
        WHERE lift IS NOT NULL
    """)
    op.execute(f"""
        CREATE VIEW v_lift_latest AS
        SELECT {_time("as_of")} AS time, experiment, metric, arm, lift, lo, hi, p_fixed, p_adj,
               n, n_control, mean, mean_control, verdict, reason, partial
        FROM results AS r
        WHERE id = (SELECT max(l.id) FROM results AS l
                    WHERE l.experiment = r.experiment AND l.metric = r.metric AND l.arm = r.arm
                      AND l.method = r.method)
    """)
    op.execute(f"""
        CREATE VIEW v_health AS
        SELECT {_time("as_of")} AS time, experiment, check_name AS "check", stat, p, status, detail, partial
        FROM health
    """)
    op.execute(f"""
        CREATE VIEW v_traffic AS
        SELECT {_time("impression_ts", 60_000)} AS time, experiment, arm,
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


VIEWS = ("v_lift_timeseries", "v_lift_latest", "v_health", "v_traffic", "v_versions")


def upgrade() -> None:
    op.create_table('experiments',
    sa.Column('key', sa.String(length=64), nullable=False),
    sa.Column('layer', sa.String(length=64), nullable=False),
    sa.Column('salt', sa.String(length=64), nullable=False),
    sa.Column('plan', sa.JSON(), nullable=False),
    sa.Column('spec_hash', sa.String(length=64), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('decision', sa.String(length=255), nullable=True),
    sa.Column('created_ts', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_experiments'))
    )
    with op.batch_alter_table('experiments', schema=None) as batch_op:
        batch_op.create_index('ix_experiments_one_running', ['layer'], unique=True, sqlite_where=sa.text("status = 'running'"), postgresql_where=sa.text("status = 'running'"))

    op.create_table('exposures',
    sa.Column('experiment', sa.Text(), nullable=False),
    sa.Column('client_id', sa.String(length=128), nullable=False),
    sa.Column('layer', sa.Text(), nullable=False),
    sa.Column('arm', sa.Text(), nullable=False),
    sa.Column('epoch', sa.BigInteger(), nullable=False),
    sa.Column('bucket', sa.Integer(), nullable=False),
    sa.Column('first_ts', sa.BigInteger(), nullable=False),
    sa.Column('query_id', sa.String(length=64), nullable=False),
    sa.Column('lineage', sa.Text(), nullable=True),
    sa.Column('version', sa.Text(), nullable=True),
    sa.Column('fallback', sa.Text(), nullable=True),
    sa.Column('triggered', sa.Boolean(), nullable=True),
    sa.Column('multi_arm', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('experiment', 'client_id', name=op.f('pk_exposures'))
    )
    op.create_table('lineages',
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('model', sa.String(length=32), nullable=False),
    sa.Column('profile', sa.String(length=32), nullable=False),
    sa.Column('config_hash', sa.String(length=64), nullable=False),
    sa.Column('data_policy', sa.String(length=16), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('row_version', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_lineages'))
    )
    op.create_table('session_facts',
    sa.Column('query_id', sa.String(length=64), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('client_id', sa.String(length=128), nullable=False),
    sa.Column('session_id', sa.Text(), nullable=True),
    sa.Column('experiment', sa.Text(), nullable=True),
    sa.Column('arm', sa.Text(), nullable=True),
    sa.Column('epoch', sa.BigInteger(), nullable=True),
    sa.Column('bucket', sa.Integer(), nullable=True),
    sa.Column('lineage', sa.Text(), nullable=True),
    sa.Column('version', sa.Text(), nullable=True),
    sa.Column('fallback', sa.Text(), nullable=True),
    sa.Column('impression_ts', sa.BigInteger(), nullable=False),
    sa.Column('watermark_ts', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.String(length=3), nullable=False),
    sa.Column('n_items', sa.Integer(), nullable=False),
    sa.Column('clicks', sa.Integer(), nullable=False),
    sa.Column('carts', sa.Integer(), nullable=False),
    sa.Column('orders', sa.Integer(), nullable=False),
    sa.Column('units', sa.BigInteger(), nullable=False),
    sa.Column('gross_minor', sa.BigInteger(), nullable=False),
    sa.Column('refund_minor', sa.BigInteger(), nullable=False),
    sa.Column('foreign_lines', sa.Integer(), nullable=False),
    sa.Column('evidence', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('query_id', name=op.f('pk_session_facts'))
    )
    with op.batch_alter_table('session_facts', schema=None) as batch_op:
        batch_op.create_index('ix_session_facts_experiment', ['experiment', 'client_id'], unique=False)
        batch_op.create_index('ix_session_facts_impression_ts', ['impression_ts'], unique=False)
        batch_op.create_index('ix_session_facts_lineage', ['lineage', 'version'], unique=False)

    op.create_table('sink_offsets',
    sa.Column('sink', sa.String(length=32), nullable=False),
    sa.Column('topic', sa.String(length=64), nullable=False),
    sa.Column('partition', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('next_offset', sa.BigInteger(), nullable=False),
    sa.Column('watermark_ts', sa.BigInteger(), nullable=True),
    sa.Column('matured_ts', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('sink', 'topic', 'partition', name=op.f('pk_sink_offsets'))
    )
    op.create_table('arms',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('lineage', sa.String(length=64), nullable=True),
    sa.Column('policy', sa.String(length=16), nullable=True),
    sa.Column('is_control', sa.Boolean(), nullable=False),
    sa.CheckConstraint('(lineage IS NULL) <> (policy IS NULL)', name=op.f('ck_arms_lineage_or_policy')),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_arms_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', 'number', name=op.f('pk_arms')),
    sa.UniqueConstraint('experiment', 'name', name=op.f('uq_arms_experiment'))
    )
    op.create_table('epochs',
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('number', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('start_ts', sa.BigInteger(), nullable=False),
    sa.Column('end_ts', sa.BigInteger(), nullable=True),
    sa.Column('coverage', sa.Float(), nullable=False),
    sa.Column('weights', sa.JSON(), nullable=False),
    sa.Column('buckets', sa.LargeBinary(), nullable=False),
    sa.Column('buckets_sha256', sa.String(length=64), nullable=False),
    sa.Column('reason', sa.String(length=255), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_epochs_experiment_experiments')),
    sa.PrimaryKeyConstraint('experiment', 'number', name=op.f('pk_epochs'))
    )
    op.create_table('health',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=False),
    sa.Column('check_name', sa.String(length=32), nullable=False),
    sa.Column('partial', sa.Boolean(), nullable=False),
    sa.Column('stat', sa.Float(), nullable=True),
    sa.Column('p', sa.Float(), nullable=True),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('detail', sa.String(length=1024), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_health_experiment_experiments')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_health')),
    sa.UniqueConstraint('experiment', 'as_of', 'check_name', 'partial', name=op.f('uq_health_experiment'))
    )
    op.create_table('leases',
    sa.Column('lineage', sa.String(length=64), nullable=False),
    sa.Column('holder', sa.String(length=255), nullable=False),
    sa.Column('term', sa.BigInteger(), nullable=False),
    sa.Column('expires_ts', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['lineage'], ['lineages.name'], name=op.f('fk_leases_lineage_lineages')),
    sa.PrimaryKeyConstraint('lineage', name=op.f('pk_leases'))
    )
    op.create_table('results',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('experiment', sa.String(length=64), nullable=False),
    sa.Column('as_of', sa.BigInteger(), nullable=False),
    sa.Column('metric', sa.String(length=32), nullable=False),
    sa.Column('arm', sa.String(length=64), nullable=False),
    sa.Column('method', sa.String(length=32), nullable=False),
    sa.Column('partial', sa.Boolean(), nullable=False),
    sa.Column('n', sa.BigInteger(), nullable=False),
    sa.Column('n_control', sa.BigInteger(), nullable=False),
    sa.Column('mean', sa.Float(), nullable=True),
    sa.Column('mean_control', sa.Float(), nullable=True),
    sa.Column('diff', sa.Float(), nullable=True),
    sa.Column('se', sa.Float(), nullable=True),
    sa.Column('df', sa.Float(), nullable=True),
    sa.Column('lift', sa.Float(), nullable=True),
    sa.Column('lift_se', sa.Float(), nullable=True),
    sa.Column('lo', sa.Float(), nullable=True),
    sa.Column('hi', sa.Float(), nullable=True),
    sa.Column('set_kind', sa.String(length=16), nullable=True),
    sa.Column('p_fixed', sa.Float(), nullable=True),
    sa.Column('p_adj', sa.Float(), nullable=True),
    sa.Column('power', sa.Float(), nullable=True),
    sa.Column('mde', sa.Float(), nullable=True),
    sa.Column('exaggeration_ratio', sa.Float(), nullable=True),
    sa.Column('verdict', sa.String(length=32), nullable=True),
    sa.Column('reason', sa.String(length=255), nullable=True),
    sa.Column('spec_hash', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(['experiment'], ['experiments.key'], name=op.f('fk_results_experiment_experiments')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_results')),
    sa.UniqueConstraint('experiment', 'as_of', 'metric', 'arm', 'method', 'partial', name=op.f('uq_results_experiment'))
    )
    op.create_table('rollout_events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('lineage', sa.String(length=64), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=True),
    sa.Column('from_status', sa.String(length=16), nullable=True),
    sa.Column('to_status', sa.String(length=16), nullable=False),
    sa.Column('who', sa.String(length=255), nullable=False),
    sa.Column('why', sa.String(length=255), nullable=False),
    sa.Column('evidence', sa.JSON(), nullable=False),
    sa.Column('event_ts', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['lineage'], ['lineages.name'], name=op.f('fk_rollout_events_lineage_lineages')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_rollout_events'))
    )
    with op.batch_alter_table('rollout_events', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_rollout_events_lineage'), ['lineage'], unique=False)

    op.create_table('session_orders',
    sa.Column('query_id', sa.String(length=64), nullable=False),
    sa.Column('transaction_id', sa.String(length=128), nullable=False),
    sa.ForeignKeyConstraint(['query_id'], ['session_facts.query_id'], name=op.f('fk_session_orders_query_id_session_facts')),
    sa.PrimaryKeyConstraint('query_id', 'transaction_id', name=op.f('pk_session_orders'))
    )
    op.create_table('versions',
    sa.Column('lineage', sa.String(length=64), nullable=False),
    sa.Column('version', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('artifact', sa.String(length=64), nullable=False),
    sa.Column('parent', sa.String(length=64), nullable=True),
    sa.Column('term', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.String(length=16), nullable=False),
    sa.Column('metrics', sa.JSON(), nullable=False),
    sa.Column('offsets', sa.JSON(), nullable=False),
    sa.Column('published_ts', sa.BigInteger(), nullable=False),
    sa.Column('row_version', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['lineage'], ['lineages.name'], name=op.f('fk_versions_lineage_lineages')),
    sa.PrimaryKeyConstraint('lineage', 'version', name=op.f('pk_versions')),
    sa.UniqueConstraint('lineage', 'artifact', name=op.f('uq_versions_lineage'))
    )
    with op.batch_alter_table('versions', schema=None) as batch_op:
        batch_op.create_index('ix_versions_one_live', ['lineage'], unique=True, sqlite_where=sa.text("status = 'live'"), postgresql_where=sa.text("status = 'live'"))
    _create_views()


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"DROP VIEW {view}")
    with op.batch_alter_table('versions', schema=None) as batch_op:
        batch_op.drop_index('ix_versions_one_live', sqlite_where=sa.text("status = 'live'"), postgresql_where=sa.text("status = 'live'"))

    op.drop_table('versions')
    op.drop_table('session_orders')
    with op.batch_alter_table('rollout_events', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_rollout_events_lineage'))

    op.drop_table('rollout_events')
    op.drop_table('results')
    op.drop_table('leases')
    op.drop_table('health')
    op.drop_table('epochs')
    op.drop_table('arms')
    op.drop_table('sink_offsets')
    with op.batch_alter_table('session_facts', schema=None) as batch_op:
        batch_op.drop_index('ix_session_facts_lineage')
        batch_op.drop_index('ix_session_facts_impression_ts')
        batch_op.drop_index('ix_session_facts_experiment')

    op.drop_table('session_facts')
    op.drop_table('lineages')
    op.drop_table('exposures')
    with op.batch_alter_table('experiments', schema=None) as batch_op:
        batch_op.drop_index('ix_experiments_one_running', sqlite_where=sa.text("status = 'running'"), postgresql_where=sa.text("status = 'running'"))

    op.drop_table('experiments')