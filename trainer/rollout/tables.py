"""Table of the reports that serving processes write, on the one `MetaData` of the program.

A process replaces its row every few seconds. Its counters begin at 0 with the process.

Source: docs/rollout.md.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, String, Table

from stream.db import metadata

servers = Table(
    "servers",
    metadata,
    # Host and port, and the number of the worker if there are several.
    Column("name", String(255), primary_key=True),
    Column("seen_ts", BigInteger, nullable=False),
    Column("ready", Boolean, nullable=False),
    # SHA-256 of the map of versions and shares in use.
    Column("map_sha256", String(64), nullable=True),
    # Each lineage that it answers for, to version to "ok", or to the reason of the refusal.
    Column("loaded", JSON, nullable=False),
    # "lineage/version/slice" to answered, fallbacks by reason, bad, and latency by the upper bound of each bucket.
    Column("counts", JSON, nullable=False),
)
