"""The registry of lineages and versions; writers are fenced by the term of their lease.

Every write of a version names the term of its writer, and the statement itself compares it with the lease row, so a
writer that lost its lease while it slept changes nothing.

Source: docs/training.md.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Row, case, insert, literal, not_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import JSON, BigInteger, Integer, String

from stream import db
from stream.errors import ConfigError, FencedError, StoreError
from stream.schemas.names import check_name
from trainer.rollout import policy as policies
from trainer.rollout.changes import RewindMode
from trainer.versions import event_log
from trainer.versions.leases import Leases, check_term, create
from trainer.versions.retention import is_kept, is_recoverable
from trainer.versions.tables import DRILL, leases, lineages, teachers, versions


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRow:
    """A row of `lineages`."""

    name: str
    model: str
    profile: str
    config_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A row of `versions`; `artifact` and `parent` are addresses (sha256 hex)."""

    lineage: str
    version: int
    artifact: str
    parent: str | None
    term: int
    status: str
    metrics: Mapping[str, object]
    offsets: Mapping[str, int]
    published_ts: int

    @property
    def is_gone(self) -> bool:
        """True if its folder may be missing or damaged: it was retired or rejected."""
        return self.status in ("retired", "rejected")


class Rewind(NamedTuple):
    """The demand of a rollback that training goes back.

    Attributes:
        to: Version from whose state it goes on; 0 for fresh weights.
        mode: What it does with the range since then: learn it again, leave it out, or wait for a decision.
    """

    to: int
    mode: RewindMode


class Registry:
    """Lineages and versions in SQLite or PostgreSQL.

    Attributes:
        leases: Leases of the trainers, and of the controller.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.leases = Leases(engine)

    def ensure_lineage(
        self,
        name: str,
        model: str,
        profile: str,
        config_hash: str,
        keeps: Collection[str] = (),
    ) -> LineageRow:
        """Create the lineage, or compare it with the existing one; versions at the addresses `keeps` stay for it.

        Raises:
            ConfigError: If the name breaks the rule for names, or the lineage exists with another model,
                profile or configuration.
            StoreError: If the database is unreachable or refused.
        """
        check_name("lineage", name)
        wanted = {"name": name, "model": model, "profile": profile, "config_hash": config_hash}
        try:
            with db.transaction(self._engine) as connection:
                if _lineage_row(connection, name) is None:
                    connection.execute(insert(lineages).values(**wanted, row_version=1))
                    create(connection, name)
                    for address in keeps:
                        connection.execute(insert(teachers).values(lineage=name, artifact=address))
        except StoreError as error:
            # Another process created it in between: compared below like any other.
            if not isinstance(error.__cause__, IntegrityError):
                raise
        with db.read(self._engine) as connection:
            row = _lineage_row(connection, name)
        assert row is not None
        found = _lineage(row)
        for key, value in wanted.items():
            if getattr(found, key) != value:
                raise ConfigError(f"lineage {name}: {key} is {getattr(found, key)!r}, this trainer has {value!r}")
        return found

    def lineages(self) -> list[LineageRow]:
        """Return all lineages by name."""
        with db.read(self._engine) as connection:
            return [_lineage(row) for row in connection.execute(select(lineages).order_by(lineages.c.name))]

    def publish(
        self,
        lineage: str,
        version: int,
        artifact: str,
        *,
        parent: str | None,
        term: int,
        metrics: Mapping[str, object],
        offsets: Mapping[str, int],
        published_ts: int,
    ) -> str:
        """Insert a version, in one statement that compares the lease term and the newest number; return its status.

        It is `published`, or `quarantined` if its parent is quarantined or was rolled back.

        Raises:
            FencedError: If the term is stale or the number does not rise.
            StoreError: If the database is unreachable or refused.
        """
        newer = select(versions.c.version).where(versions.c.lineage == lineage, versions.c.version >= version)
        bad_parent = select(versions.c.version).where(
            versions.c.lineage == lineage,
            versions.c.artifact == parent,
            versions.c.status.in_(("quarantined", "rolled_back")),
        )
        # The lock makes PostgreSQL re-read the term after a take-over that commits meanwhile; SQLite has one writer.
        source = (
            select(
                literal(lineage, String),
                literal(version, BigInteger),
                literal(artifact, String),
                literal(parent, String),
                leases.c.term,
                case((bad_parent.exists(), "quarantined"), else_="published"),
                literal(dict(metrics), JSON),
                literal(dict(offsets), JSON),
                literal(published_ts, BigInteger),
                literal(1, Integer),
            )
            .where(leases.c.name == lineage, leases.c.term == term, ~newer.exists())
            .with_for_update(of=leases)
        )
        # The other columns are set by moves.
        columns = [column.name for column in versions.columns if not column.name.startswith(("live_", "canary_"))]
        with db.transaction(self._engine) as connection:
            statement = insert(versions).from_select(columns, source).returning(versions.c.status)
            status = connection.execute(statement).scalar_one_or_none()
            if status is None:
                raise FencedError(f"lineage {lineage}: version {version} of term {term} refused, a later writer exists")
            written = "artifact written, a drill with flipped labels" if DRILL in metrics else "artifact written"
            why = written if status == "published" else "its parent is quarantined or was rolled back"
            if status == "published" and _clear_rewind(connection, lineage):
                why += ", the first one since training had to go back"
            _log(connection, lineage, version, statuses=(None, status), term=term, why=why, now_ms=published_ts)
        return str(status)

    def rewind(self, lineage: str) -> Rewind | None:
        """Return what a rollback demands of training; None if it demands nothing, or training has met the demand."""
        with db.read(self._engine) as connection:
            statement = select(lineages.c.rewind_to, lineages.c.rewind_mode).where(lineages.c.name == lineage)
            to, mode = connection.execute(statement).one()
        return None if to is None else Rewind(to=to, mode=mode)

    def record_rewound(
        self, lineage: str, term: int, rewind: Rewind, evidence: Mapping[str, object], now_ms: int
    ) -> None:
        """Append the event that training goes on from the last good version.

        Raises:
            FencedError: If the term is stale.
            StoreError: If the database is unreachable or refused.
        """
        state = f"the state of version {rewind.to}" if rewind.to else "fresh weights"
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            event_log.append(
                connection,
                lineage,
                version=rewind.to or None,
                to_status="rewound",
                actor=event_log.process("trainer", term),
                why=f"training goes on from {state}: {rewind.mode}",
                evidence=evidence,
                event_ts=now_ms,
            )

    def policy(self, lineage: str) -> policies.Policy:
        """Return the policy of a lineage's rollout."""
        with db.read(self._engine) as connection:
            policy = connection.execute(select(lineages.c.policy).where(lineages.c.name == lineage)).scalar_one()
        return policies.of(policy)

    def advance(self, lineage: str, version: int, term: int, *, to_status: str, why: str, now_ms: int) -> bool:
        """Move a version to `verified`, `live` or `rejected`; going live supersedes the former live version.

        Returns:
            False if the version stays verified, because the lineage's versions go live by gates, or none may.

        Raises:
            FencedError: If the term is stale or the version is not in a status that leads there.
            StoreError: If the database is unreachable or refused.
        """
        from_status = {"verified": "published", "rejected": "published", "live": "verified"}[to_status]
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            if to_status == "live" and not _is_direct(connection, lineage):
                return False
            if to_status == "live":
                former = connection.execute(
                    select(versions.c.version).where(versions.c.lineage == lineage, versions.c.status == "live")
                ).scalars()
                for number in list(former):
                    _move(
                        connection,
                        lineage,
                        number,
                        statuses=("live", "superseded"),
                        term=term,
                        why=f"by version {version}",
                        now_ms=now_ms,
                    )
            if not _move(
                connection, lineage, version, statuses=(from_status, to_status), term=term, why=why, now_ms=now_ms
            ):
                raise FencedError(f"lineage {lineage}: version {version} is not '{from_status}'")
        return True

    def kept(self, lineage: str, keep: int) -> list[Version]:
        """Return the versions that stay for their own sake, oldest first.

        They are the newest `keep`, those that may serve, and teachers of any lineage.
        """
        statement = select(versions).where(versions.c.lineage == lineage, is_kept(lineage, keep))
        with db.read(self._engine) as connection:
            return [_version(row) for row in connection.execute(statement.order_by(versions.c.version))]

    def retire(self, lineage: str, keep: int, term: int, now_ms: int, needed: Collection[str] = ()) -> list[Version]:
        """Move all but the newest `keep` versions to `retired` and return those that moved, oldest first.

        The newest one, those that serving has or may be told to go back to, teachers of any lineage, and those whose
        address is in `needed` always stay.

        Raises:
            FencedError: If the term is stale.
            StoreError: If the database is unreachable or refused.
        """
        statement = (
            select(versions)
            .where(versions.c.lineage == lineage, versions.c.status != "retired", not_(is_kept(lineage, keep)))
            .where(versions.c.artifact.not_in(needed))
            .order_by(versions.c.version)
        )
        with db.transaction(self._engine) as connection:
            check_term(connection, lineage, term)
            retired = [_version(row) for row in connection.execute(statement)]
            for version in retired:
                statuses, why = (version.status, "retired"), f"beyond the newest {keep}"
                _move(connection, lineage, version.version, statuses=statuses, term=term, why=why, now_ms=now_ms)
        return retired

    def recoverable(self, lineage: str) -> set[str]:
        """Return the addresses of the versions that training may have to go back to.

        They are those that serve or may be told to serve again, and the newest one that has not served yet.
        """
        statement = select(versions.c.artifact).where(versions.c.lineage == lineage, is_recoverable(lineage))
        with db.read(self._engine) as connection:
            return set(connection.execute(statement).scalars())

    def live(self, lineage: str) -> Version | None:
        """Return the live version; None also if the lineage is killed."""
        alive = select(lineages.c.name).where(lineages.c.name == lineage, lineages.c.killed.is_(None))
        statement = select(versions).where(versions.c.lineage.in_(alive), versions.c.status == "live")
        with db.read(self._engine) as connection:
            row = connection.execute(statement.order_by(versions.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else _version(row)

    def versions(self, lineage: str | None = None) -> list[Version]:
        """Return the versions of a lineage, or of all, oldest first."""
        statement = select(versions).order_by(versions.c.lineage, versions.c.version)
        if lineage is not None:
            statement = statement.where(versions.c.lineage == lineage)
        with db.read(self._engine) as connection:
            return [_version(row) for row in connection.execute(statement)]


def _lineage_row(connection: Connection, name: str) -> "Row[tuple[object, ...]] | None":
    return connection.execute(select(lineages).where(lineages.c.name == name)).one_or_none()


def _lineage(row: "Row[tuple[object, ...]]") -> LineageRow:
    mapping = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for a row as mapping
    return LineageRow(**{key: str(mapping[key]) for key in LineageRow.__slots__})


def _version(row: "Row[tuple[object, ...]]") -> Version:
    mapping = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for a row as mapping
    return Version(**{key: mapping[key] for key in Version.__slots__})


def _clear_rewind(connection: Connection, lineage: str) -> bool:
    """Note that the trainer has gone back, and return whether it had to."""
    changed = connection.execute(
        update(lineages)
        .where(lineages.c.name == lineage, lineages.c.rewind_to.is_not(None))
        .values(rewind_to=None, rewind_mode=None, row_version=lineages.c.row_version + 1)
    )
    return changed.rowcount == 1


def _is_direct(connection: Connection, lineage: str) -> bool:
    """Return whether the trainer itself may put versions live."""
    row = connection.execute(select(lineages).where(lineages.c.name == lineage)).one()
    is_locked = row.pinned is not None or row.frozen is not None or row.killed is not None
    return not is_locked and policies.of(row.policy).mode == "direct"


def _move(
    connection: Connection,
    lineage: str,
    version: int,
    *,
    statuses: tuple[str, str],
    term: int,
    why: str,
    now_ms: int,
) -> bool:
    """Move a version from one status to another, with an event; return False if it is not in the first one."""
    from_status, to_status = statuses
    values = {"live_since": now_ms} if to_status == "live" else {}
    changed = connection.execute(
        update(versions)
        .where(versions.c.lineage == lineage, versions.c.version == version, versions.c.status == from_status)
        .values(status=to_status, row_version=versions.c.row_version + 1, **values)
    )
    if changed.rowcount != 1:
        return False
    _log(connection, lineage, version, statuses=statuses, term=term, why=why, now_ms=now_ms)
    return True


def _log(
    connection: Connection,
    lineage: str,
    version: int,
    *,
    statuses: tuple[str | None, str],
    term: int,
    why: str,
    now_ms: int,
) -> None:
    """Append the event that the trainer gave a version its status."""
    from_status, to_status = statuses
    event_log.append(
        connection,
        lineage,
        version=version,
        from_status=from_status,
        to_status=to_status,
        actor=event_log.process("trainer", term),
        why=why,
        event_ts=now_ms,
        before={"versions": {str(version): from_status}},
        after={"versions": {str(version): to_status}},
    )
