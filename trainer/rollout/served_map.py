"""The map of a lineage that serving reads: its live version, canary, former versions and kill, in one statement.

Source: docs/rollout.md, docs/serving.md.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import Engine, Row, and_, or_, select

from stream import db
from trainer.versions.tables import lineages, versions


class Pointer(NamedTuple):
    """Number and address of a version."""

    number: int
    artifact: str


class LineageMap(Struct, frozen=True, kw_only=True):
    """The versions of one lineage by their roles.

    Attributes:
        live: The live version.
        former: Versions that were live before and may be again, the one that was live last first.
        canary: The canary.
        canary_share: Share of the lineage's clients that it serves.
        candidate: The version that may become the next canary, for which servers have to have it in memory.
        killed: Reason why no version may answer; None if they may.
        rolled_back: Number of the version that was taken back last; without a live and a former version, nothing is
            left then.
    """

    live: Pointer | None = None
    former: tuple[Pointer, ...] = ()
    canary: Pointer | None = None
    canary_share: float = 0.0
    candidate: Pointer | None = None
    killed: str | None = None
    rolled_back: int | None = None

    @property
    def answering(self) -> tuple[Pointer, ...]:
        """The versions that may answer for the lineage, best first."""
        return self.former if self.live is None else (self.live, *self.former)

    @property
    def withdrawn(self) -> str | None:
        """The reason why no version may answer any more; None if one may, or none was ever live."""
        if self.killed is not None:
            return f"killed: {self.killed}"
        if self.rolled_back is not None and not self.answering:
            return f"version {self.rolled_back} was rolled back, and no version is left that was live before it"
        return None


class MapReader:
    """Reader of the map from SQL.

    Args:
        engine: A database with the newest schema.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, names: Collection[str]) -> dict[str, LineageMap]:
        """Return the map of each named lineage that exists, as one state of the database holds it.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        own = versions.c
        was_live = and_(own.status == "superseded", own.live_since.is_not(None))
        in_role = or_(own.status.in_(("live", "canary", "verified", "rolled_back")), was_live)
        statement = (
            select(
                lineages.c.name,
                lineages.c.killed,
                lineages.c.policy,
                or_(lineages.c.pinned.is_not(None), lineages.c.frozen.is_not(None)).label("is_locked"),
                own.version,
                own.artifact,
                own.status,
                own.canary_share,
            )
            .select_from(lineages.outerjoin(versions, and_(own.lineage == lineages.c.name, in_role)))
            .where(lineages.c.name.in_(names))
            .order_by(lineages.c.name, own.live_since.desc(), own.version.desc())
        )
        found: dict[str, list[Row[Any]]] = {}
        with db.read(self._engine) as connection:
            for row in connection.execute(statement):
                found.setdefault(row.name, []).append(row)
        return {name: _map(rows) for name, rows in found.items()}


def _map(rows: Iterable[Row[Any]]) -> LineageMap:
    """Return the map of a lineage from its rows, the version that was live last first."""
    rows = list(rows)
    live, canary, rolled_back = (_only(rows, status) for status in ("live", "canary", "rolled_back"))
    return LineageMap(
        live=None if live is None else _pointer(live),
        former=tuple(_pointer(row) for row in rows if row.status == "superseded"),
        canary=None if canary is None else _pointer(canary),
        canary_share=0.0 if canary is None else canary.canary_share or 0.0,
        candidate=_candidate(rows) if canary is None else None,
        killed=rows[0].killed,
        rolled_back=None if rolled_back is None else rolled_back.version,
    )


def _candidate(rows: list[Row[Any]]) -> Pointer | None:
    """Return the newest verified version, if the controller may move it."""
    first = rows[0]
    is_gated = (first.policy or {}).get("mode") == "gated"
    if not is_gated or first.is_locked or first.killed is not None:
        return None
    verified = [_pointer(row) for row in rows if row.status == "verified"]
    return max(verified, default=None)


def _only(rows: Iterable[Row[Any]], status: str) -> Row[Any] | None:
    return next((row for row in rows if row.status == status), None)


def _pointer(row: Row[Any]) -> Pointer:
    return Pointer(row.version, row.artifact)
