"""The reports of serving processes: which versions each has in memory, and how its answers by them went.

A process replaces its row every few seconds. Its counts begin at 0 with the process.

Source: docs/rollout.md.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Engine, delete, select

from stream import db
from stream.errors import StoreError
from stream.schemas.times import DAY_MS
from trainer.rollout.tables import servers

OK: Final = "ok"
"""State of a version that is in memory, verified."""
KEPT_MS: Final = DAY_MS
"""Time after which the row of a process that is gone is removed."""
_MAX_REASON: Final = 255


class AnswerCounts(Struct, kw_only=True):
    """Answers of one version in one slice, since the start of the process.

    Attributes:
        answered: Answers.
        scored: Answers in the order of the version's scores.
        fallbacks: Reason to answers in incoming order.
        bad: Bad outputs of the version.
        latency: Upper bound of a latency bucket, in seconds, to the answers in it; `inf` for the last.
    """

    answered: int = 0
    scored: int = 0
    fallbacks: dict[str, int] = {}
    bad: int = 0
    latency: dict[str, int] = {}


class CountsKey(NamedTuple):
    """The answers that are counted together.

    Attributes:
        lineage: The lineage, whose name holds no slash.
        version: Number of the version; in the control slice that of the canary with which it is compared.
        part: `canary`, `control`, or `live` for all other clients.
    """

    lineage: str
    version: int
    part: str

    @property
    def text(self) -> str:
        """Return the key as it stands in a report."""
        return f"{self.lineage}/{self.version}/{self.part}"


class Report(Struct, kw_only=True):
    """The report of one serving process.

    Attributes:
        name: Host and port, and the number of the worker if there are several.
        seen_ts: Time of the report.
        ready: Whether it answers requests.
        map_sha256: SHA-256 of the map in use.
        loaded: Lineage to number of a version to `ok`, or to the reason why the process refuses it.
        counts: `lineage/version/part` to counts.
    """

    name: str
    seen_ts: int
    ready: bool
    map_sha256: str | None = None
    loaded: dict[str, dict[str, str]] = {}
    counts: dict[str, AnswerCounts] = {}

    def by_key(self) -> Mapping[CountsKey, AnswerCounts]:
        """Return the counts by their keys."""
        found = {}
        for text, counts in self.counts.items():
            lineage, version, part = text.split("/")
            found[CountsKey(lineage, int(version), part)] = counts
        return found


def write(engine: Engine, report: Report) -> None:
    """Write the report of a process over its last one, and remove rows of processes that are long gone.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    loaded = {
        lineage: {number: state[:_MAX_REASON] for number, state in states.items()}
        for lineage, states in report.loaded.items()
    }
    row = {**msgspec.to_builtins(report), "loaded": loaded}
    with db.transaction(engine) as connection:
        upsert = db.insert(connection, servers).values(row)
        changes = {column.name: upsert.excluded[column.name] for column in servers.c if not column.primary_key}
        connection.execute(delete(servers).where(servers.c.seen_ts < report.seen_ts - KEPT_MS))
        connection.execute(upsert.on_conflict_do_update(index_elements=[servers.c.name], set_=changes))


def read(connection: Connection) -> list[Report]:
    """Return the last report of each process, by name.

    Raises:
        StoreError: If a row is no report, so that nothing is decided without it.
    """
    rows = connection.execute(select(servers).order_by(servers.c.name)).mappings()
    return [_report({name: row[name] for name in Report.__struct_fields__}) for row in rows]


def _report(row: dict[str, object]) -> Report:
    try:
        return msgspec.convert(row, Report)
    except msgspec.ValidationError as error:
        raise StoreError(f"report of {row['name']}: {error}") from error
