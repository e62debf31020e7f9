"""Tables of lineages, versions, leases, rollout events and quarantined ranges, on the one `MetaData` of the program.

Source: docs/training.md.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
)

from stream.db import metadata
from stream.schemas.names import NAME_LENGTH

DRILL: Final = "drill_flipped_labels"
"""Name among the metrics of a version that has learned flipped labels on purpose."""
# SQLite numbers rows itself only for a column spelled INTEGER.
_BigId = BigInteger().with_variant(Integer, "sqlite")

lineages = Table(
    "lineages",
    metadata,
    Column("name", String(NAME_LENGTH), primary_key=True),
    Column("model", String(32), nullable=False),
    Column("profile", String(32), nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("row_version", Integer, nullable=False),
    # Values that differ from the defaults of trainer.rollout.policy.
    Column("policy", JSON(none_as_null=True), nullable=True),
    Column("pinned", BigInteger, nullable=True),
    Column("frozen", String(255), nullable=True),
    Column("killed", String(255), nullable=True),
    Column("rewind_to", BigInteger, nullable=True),
    Column("rewind_mode", String(8), nullable=True),
)

# The name is that of a lineage, or another one that no lineage can have.
leases = Table(
    "leases",
    metadata,
    Column("name", String(NAME_LENGTH), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("expires_ts", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("lineage", ForeignKey("lineages.name"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact", String(64), nullable=False),
    Column("parent", String(64), nullable=True),
    Column("term", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("offsets", JSON, nullable=False),
    Column("published_ts", BigInteger, nullable=False),
    Column("row_version", Integer, nullable=False),
    Column("live_since", BigInteger, nullable=True),
    Column("canary_share", Float, nullable=True),
    Column("canary_since", BigInteger, nullable=True),
    UniqueConstraint("lineage", "artifact"),
)

for _only in ("live", "canary"):
    Index(
        f"ix_versions_one_{_only}",
        versions.c.lineage,
        unique=True,
        sqlite_where=versions.c.status == _only,
        postgresql_where=versions.c.status == _only,
    )

# Versions that a lineage learns from, and that stay while it names them.
teachers = Table(
    "teachers",
    metadata,
    Column("lineage", ForeignKey("lineages.name"), primary_key=True),
    Column("artifact", String(64), primary_key=True),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("lineage", ForeignKey("lineages.name"), nullable=False, index=True),
    Column("version", BigInteger, nullable=True),
    Column("from_status", String(16), nullable=True),
    Column("to_status", String(16), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("why", String(255), nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("event_ts", BigInteger, nullable=False),
    Column("command", String(16), nullable=True),
    # A repeated command finds its event by the id of the request.
    Column("request_id", String(64), nullable=True, unique=True, index=True),
    Column("before", JSON(none_as_null=True), nullable=True),
    Column("after", JSON(none_as_null=True), nullable=True),
)

quarantined_ranges = Table(
    "quarantined_ranges",
    metadata,
    Column("lineage", ForeignKey("lineages.name"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("from_ts", BigInteger, nullable=True),
    Column("until_ts", BigInteger, nullable=False),
    # Partition to the first offset and the watermark before it, and to the first offset behind the range.
    Column("from_cursors", JSON, nullable=False),
    Column("until_offsets", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("numbers", JSON, nullable=False),
    Column("num_sessions", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("created_ts", BigInteger, nullable=False),
    Column("row_version", Integer, nullable=False),
    # A trainer that comes by again after a crash finds the range that it has recorded.
    UniqueConstraint("lineage", "until_ts"),
)
