"""Tables of experiments, exposures, facts and results, on the one `MetaData` of the program.

Times are epoch milliseconds, money is integer minor units, shares and lifts are fractions.

Source: docs/experiments.md.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from stream import db
from stream.db import metadata
from stream.schemas.names import NAME_LENGTH

ANALYSED_LAYER = "ranker"
"""Layer whose experiments the facts name."""
DECISION_LENGTH = 255

# SQLite numbers rows by itself only if the column type is INTEGER.
_BigId = BigInteger().with_variant(Integer, "sqlite")
# Names that come with events are text of any length, so that no event can stop the sink.
_ClientId = String(128)
_QueryId = String(64)
_LineId = String(64)

experiments = Table(
    "experiments",
    metadata,
    Column("key", String(NAME_LENGTH), primary_key=True),
    Column("layer", String(NAME_LENGTH), nullable=False),
    Column("salt", String(64), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("spec_hash", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("decision", String(DECISION_LENGTH), nullable=True),
    Column("created_ts", BigInteger, nullable=False),
)
Index(
    "ix_experiments_one_running",
    experiments.c.layer,
    unique=True,
    sqlite_where=experiments.c.status == "running",
    postgresql_where=experiments.c.status == "running",
)

arms = Table(
    "arms",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("lineage", String(NAME_LENGTH), nullable=True),
    Column("policy", String(16), nullable=True),
    Column("is_control", Boolean, nullable=False),
    UniqueConstraint("experiment", "name"),
    CheckConstraint("(lineage IS NULL) <> (policy IS NULL)", name="lineage_or_policy"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("start_ts", BigInteger, nullable=False),
    Column("end_ts", BigInteger, nullable=True),
    Column("coverage", Float, nullable=False),
    Column("weights", JSON, nullable=False),
    Column("buckets", LargeBinary, nullable=False),
    Column("buckets_sha256", String(64), nullable=False),
    Column("reason", String(255), nullable=False),
)

# Planned ramps in progress; the row goes with the last step.
ramps = Table(
    "ramps",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("row_version", BigInteger, nullable=False),
    Column("steps", JSON, nullable=False),
    Column("every_ms", BigInteger, nullable=False),
    # Health checks of the open epoch, written by the watcher, and the watermark of their data.
    Column("checks", JSON, nullable=False),
    Column("as_of", BigInteger, nullable=True),
    # Cause to detail, while the ramp is frozen.
    Column("held", JSON, nullable=False),
    Column("held_since", BigInteger, nullable=True),
)

ramp_events = Table(
    "ramp_events",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("experiment", ForeignKey("experiments.key"), nullable=False, index=True),
    Column("event", String(16), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("why", String(DECISION_LENGTH), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("share", Float, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("event_ts", BigInteger, nullable=False),
)

exposures = Table(
    "exposures",
    metadata,
    Column("experiment", Text, primary_key=True),
    Column("client_id", _ClientId, primary_key=True),
    Column("layer", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("first_ts", BigInteger, nullable=False),
    Column("query_id", _QueryId, nullable=False),
    Column("lineage", Text, nullable=True),
    Column("version", Text, nullable=True),
    Column("fallback", Text, nullable=True),
    Column("triggered", Boolean, nullable=True),
    Column("multi_arm", Boolean, nullable=False),
)

session_facts = Table(
    "session_facts",
    metadata,
    Column("query_id", _QueryId, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("client_id", _ClientId, nullable=False),
    Column("session_id", Text, nullable=True),
    Column("experiment", Text, nullable=True),
    Column("arm", Text, nullable=True),
    Column("epoch", BigInteger, nullable=True),
    Column("bucket", Integer, nullable=True),
    Column("lineage", Text, nullable=True),
    Column("version", Text, nullable=True),
    Column("fallback", Text, nullable=True),
    Column("impression_ts", BigInteger, nullable=False),
    Column("watermark_ts", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("n_items", Integer, nullable=False),
    Column("clicks", Integer, nullable=False),
    Column("carts", Integer, nullable=False),
    Column("orders", Integer, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("gross_minor", BigInteger, nullable=False),
    Column("refund_minor", BigInteger, nullable=False),
    Column("foreign_lines", Integer, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    # None where the impression does not state it.
    Column("latency_us", BigInteger, nullable=True),
    # Part of a lineage's clients in the rollout of a version: canary or control.
    Column("slice", String(8), nullable=True),
    # Program that wrote the impression.
    Column("source", Text, nullable=True),
    # SQLite reads a report from an index alone, in the order of the clients. PostgreSQL hashes instead, and refuses
    # index rows above 2,700 bytes, which names of any length can reach.
    db.index_of("postgresql", "ix_session_facts_experiment", "experiment", "client_id"),
    db.index_of(
        "sqlite",
        "ix_session_facts_report",
        "experiment",
        "client_id",
        "impression_ts",
        "epoch",
        "arm",
        "version",
        "fallback",
        "latency_us",
        "currency",
        "n_items",
        "clicks",
        "orders",
        "gross_minor",
        "refund_minor",
        "foreign_lines",
    ),
    Index("ix_session_facts_impression_ts", "impression_ts"),
    Index("ix_session_facts_lineage", "lineage", "version"),
)

session_orders = Table(
    "session_orders",
    metadata,
    Column("query_id", ForeignKey("session_facts.query_id"), primary_key=True),
    Column("transaction_id", _ClientId, primary_key=True),
    Index("ix_session_orders_transaction_id", "transaction_id"),
)

# Counts of all sessions by minute of the impression; an empty name stands for none.
traffic_minutes = Table(
    "traffic_minutes",
    metadata,
    Column("minute_ts", BigInteger, primary_key=True, autoincrement=False),
    Column("experiment", String(NAME_LENGTH), primary_key=True),
    Column("arm", String(NAME_LENGTH), primary_key=True),
    Column("lineage", String(NAME_LENGTH), primary_key=True),
    Column("version", String(NAME_LENGTH), primary_key=True),
    Column("source", String(NAME_LENGTH), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    Column("fallbacks", BigInteger, nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("clicks", BigInteger, nullable=False),
    Column("orders", BigInteger, nullable=False),
    # Whole numbers are exact up to 2^53; beyond, a sum of integers could stop the sink.
    Column("gross_minor", Double, nullable=False),
)

unlinked_lines = Table(
    "unlinked_lines",
    metadata,
    Column("client_id", _ClientId, primary_key=True),
    Column("transaction_id", _ClientId, primary_key=True),
    Column("line_id", _LineId, primary_key=True),
    Column("refund_id", _LineId, primary_key=True),
    Column("action", String(16), nullable=False),
    Column("event_ts", BigInteger, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
)

client_orders = Table(
    "client_orders",
    metadata,
    Column("client_id", _ClientId, primary_key=True),
    Column("transaction_id", _ClientId, primary_key=True),
    Column("bought_ts", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("gross_minor", BigInteger, nullable=False),
    Column("refund_minor", BigInteger, nullable=False),
    Column("linked_lines", Integer, nullable=False),
    Column("unlinked_lines", Integer, nullable=False),
    Column("foreign_lines", Integer, nullable=False),
    Index("ix_client_orders_bought_ts", "bought_ts"),
)

# Sums that the sink keeps of sessions with closed windows; `cut` says which windows.
moment_cuts = Table(
    "moment_cuts",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("cut", String(8), primary_key=True),
    Column("until_ts", BigInteger, nullable=False),
    Column("currency", String(3), nullable=True),
    Column("epochs", JSON, nullable=False),
    # False while `rebuild` adds up the clients.
    Column("is_whole", Boolean, nullable=False),
)

arm_sums = Table(
    "arm_sums",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("cut", String(8), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("arm", Text, primary_key=True),
    Column("clients", BigInteger, nullable=False),
    Column("multi_arm", BigInteger, nullable=False),
    Column("buyers", BigInteger, nullable=False),
    Column("clicked_buyers", BigInteger, nullable=False),
    Column("sums", JSON, nullable=False),
    Column("products", JSON, nullable=False),
)

client_sums = Table(
    "client_sums",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("cut", String(8), primary_key=True),
    Column("client_id", _ClientId, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("arm", Text, nullable=False),
    # None of a client that was seen in several arms.
    Column("sums", JSON(none_as_null=True), nullable=True),
)

sink_offsets = Table(
    "sink_offsets",
    metadata,
    Column("sink", String(32), primary_key=True),
    Column("topic", String(64), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("watermark_ts", BigInteger, nullable=True),
    Column("matured_ts", BigInteger, nullable=True),
)

results = Table(
    "results",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("experiment", ForeignKey("experiments.key"), nullable=False),
    Column("as_of", BigInteger, nullable=False),
    Column("metric", String(32), nullable=False),
    Column("arm", String(NAME_LENGTH), nullable=False),
    Column("method", String(32), nullable=False),
    Column("partial", Boolean, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("n_control", BigInteger, nullable=False),
    *(Column(name, Float, nullable=True) for name in ("mean", "mean_control", "diff", "se", "df", "lift", "lift_se")),
    Column("lo", Float, nullable=True),
    Column("hi", Float, nullable=True),
    Column("set_kind", String(16), nullable=True),
    Column("p_fixed", Float, nullable=True),
    Column("cs_lo", Float, nullable=True),
    Column("cs_hi", Float, nullable=True),
    Column("cs_kind", String(16), nullable=True),
    Column("cs_p", Float, nullable=True),
    Column("cuped_lift", Float, nullable=True),
    Column("cuped_cs_lo", Float, nullable=True),
    Column("cuped_cs_hi", Float, nullable=True),
    Column("cuped_cs_kind", String(16), nullable=True),
    Column("cuped_cs_p", Float, nullable=True),
    Column("cuped_variance_ratio", Float, nullable=True),
    *(Column(name, Float, nullable=True) for name in ("p_adj", "power", "mde", "exaggeration_ratio")),
    Column("verdict", String(32), nullable=True),
    Column("reason", String(255), nullable=True),
    Column("spec_hash", String(64), nullable=False),
    UniqueConstraint("experiment", "as_of", "metric", "arm", "method", "partial"),
)

looks = Table(
    "looks",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("arm", String(NAME_LENGTH), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("as_of", BigInteger, nullable=False),
    Column("metric", String(32), nullable=False),
    Column("fraction", Float, nullable=False),
    Column("information", Float, nullable=False),
    Column("alpha", Float, nullable=False),
    Column("spent", Float, nullable=False),
    Column("boundary", Float, nullable=True),
    Column("z", Float, nullable=False),
    Column("p", Float, nullable=True),
    Column("n", BigInteger, nullable=False),
    Column("n_control", BigInteger, nullable=False),
    Column("mean", Float, nullable=True),
    Column("mean_control", Float, nullable=True),
    Column("diff", Float, nullable=True),
    Column("se", Float, nullable=True),
    Column("lift", Float, nullable=True),
    Column("lo", Float, nullable=True),
    Column("hi", Float, nullable=True),
    Column("set_kind", String(16), nullable=True),
    Column("is_last", Boolean, nullable=False),
    Column("verdict", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    UniqueConstraint("experiment", "arm", "as_of"),
)

health = Table(
    "health",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("experiment", ForeignKey("experiments.key"), nullable=False),
    Column("as_of", BigInteger, nullable=False),
    Column("check_name", String(32), nullable=False),
    Column("partial", Boolean, nullable=False),
    Column("stat", Float, nullable=True),
    Column("p", Float, nullable=True),
    Column("status", String(16), nullable=False),
    Column("detail", String(1024), nullable=False),
    UniqueConstraint("experiment", "as_of", "check_name", "partial"),
)

experiment_pages = Table(
    "experiment_pages",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("as_of", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("html", Text, nullable=False),
)

# A row stands for its experiment's facts, which are removed after it is written.
final_reports = Table(
    "final_reports",
    metadata,
    Column("experiment", ForeignKey("experiments.key"), primary_key=True),
    Column("as_of", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
)
