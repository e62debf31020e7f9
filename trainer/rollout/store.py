"""The store of the rollout: views of lineages, and moves and commands with their events.

Each change is one transaction. It compares the row version of all rows that it writes, so of two movers that saw the
same state one is refused, and it appends an event with actor, evidence and the values before and after.

Source: docs/rollout.md.
"""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import IntegrityError

from stream import db
from stream.errors import ConfigError, StoreError
from stream.failpoints import Failpoint, no_failpoint
from stream.schemas.names import check_reason, check_user
from trainer.quarantine.store import set_range_status
from trainer.rollout import changes, view_rows
from trainer.rollout.changes import Change
from trainer.rollout.policy import Policy
from trainer.rollout.states import Actor, LineageView, Move, VersionView
from trainer.versions import event_log
from trainer.versions.event_log import Event
from trainer.versions.leases import CONTROLLER, check_term, fence
from trainer.versions.tables import lineages, versions


class RolloutStore:
    """Lineages of one database, as the controller and the commands read and change them.

    Args:
        engine: A database with the newest schema.
        failpoint: Called with the name of each step, for crash tests.
    """

    def __init__(self, engine: Engine, failpoint: Failpoint = no_failpoint) -> None:
        self._engine = engine
        self._failpoint = failpoint

    def names(self) -> list[str]:
        """Return the names of all lineages."""
        with db.read(self._engine) as connection:
            return list(connection.execute(select(lineages.c.name).order_by(lineages.c.name)).scalars())

    def view(self, lineage: str) -> LineageView:
        """Return a lineage with its versions, read in one statement.

        Raises:
            ConfigError: If there is no such lineage.
            StoreError: If the database is unreachable or refused.
        """
        with db.read(self._engine) as connection:
            return view_rows.read(connection, lineage)

    def move(
        self,
        seen: LineageView,
        move: Move,
        policy: Policy,
        *,
        term: int,
        now_ms: int,
        evidence: Mapping[str, object] | None = None,
    ) -> bool:
        """Make a move of the controller, and return whether the lineage was still as `seen`.

        Raises:
            FencedError: If another controller has taken over from `term`.
            StoreError: If the database is unreachable or refused.
        """
        with db.transaction(self._engine) as connection:
            check_term(connection, CONTROLLER, term)
            view = view_rows.read_locked(connection, seen.name)
            was, now = seen.get(move.version), view.get(move.version)
            if view.row_version != seen.row_version or was is None or was != now:
                return False
            change = changes.of_move(view, move, policy)
            name = event_log.process("controller", term)
            self._write(
                connection, view, change, actor="controller", actor_name=name, now_ms=now_ms, evidence=evidence or {}
            )
        self._failpoint("after_move")
        return True

    def command(
        self,
        lineage: str,
        name: str,
        decide: Callable[[LineageView], Change],
        *,
        user: str,
        request_id: str | None,
        now_ms: int,
        evidence: Mapping[str, object] | None = None,
    ) -> Event:
        """Execute a command of a user and return its event; a repeated request id returns the event of the first time.

        Args:
            lineage: Name of the lineage.
            name: Name of the command.
            decide: Returns the change, from the lineage as it is in the transaction.
            user: Who gives the command.
            request_id: Id of the request; None takes each call for a new one.
            now_ms: Epoch milliseconds.
            evidence: Verdicts that the user had before the eyes.

        Raises:
            ConfigError: If the lineage is unknown, the command does not apply to its state, or the request id belongs
                to another command.
            StoreError: If the database is unreachable or refused.
        """
        check_user(user)
        if request_id is not None and not 1 <= len(request_id) <= 64:
            raise ConfigError(f"request-id = '{request_id[:80]}': expected 1 to 64 characters")
        try:
            with db.transaction(self._engine) as connection:
                view = view_rows.read_locked(connection, lineage)
                earlier = None if request_id is None else event_log.of_request(connection, request_id)
                if earlier is None:
                    change = decide(view)
                    check_reason("why", change.why)
                    number = self._write(
                        connection,
                        view,
                        change,
                        actor="user",
                        actor_name=user,
                        now_ms=now_ms,
                        evidence=evidence or {},
                        command=name,
                        request_id=request_id,
                    )
                    earlier = event_log.numbered(connection, number)
        except StoreError as error:
            if not isinstance(error.__cause__, IntegrityError) or request_id is None:
                raise
            # The same id came in for another lineage meanwhile: reported below.
            with db.read(self._engine) as connection:
                earlier = event_log.of_request(connection, request_id)
            if earlier is None:
                raise
        if (earlier.lineage, earlier.command) != (lineage, name):
            raise ConfigError(
                f"request-id = '{request_id}': belongs to '{earlier.command}' of lineage {earlier.lineage} already"
            )
        self._failpoint("after_command")
        return earlier

    def is_executed(self, request_id: str) -> bool:
        """Return whether a command with this request id was executed.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        with db.read(self._engine) as connection:
            return event_log.of_request(connection, request_id) is not None

    def history(self, lineage: str, until_ts: int | None = None) -> list[Event]:
        """Return the events of a lineage, the oldest first, up to a time.

        Raises:
            ConfigError: If there is no such lineage.
        """
        with db.read(self._engine) as connection:
            view_rows.read(connection, lineage)
            return event_log.history(connection, lineage, until_ts)

    def is_frozen_by_rollback(self, lineage: str) -> bool:
        """Return whether a rollback, and no command of a user since, has frozen the lineage.

        The cause is the event that last froze or released it: the reason is text for people.
        """
        with db.read(self._engine) as connection:
            return event_log.last_of(connection, lineage, ("rolled_back", "frozen", "resumed")) == "rolled_back"

    def has_rewound(self, lineage: str) -> bool:
        """Return whether the trainer has gone back since it last had to, and since the mode was last set."""
        with db.read(self._engine) as connection:
            words = ("rolled_back", "rejected", "rewind", "rewound")
            return event_log.last_of(connection, lineage, words) == "rewound"

    def _write(
        self,
        connection: Connection,
        view: LineageView,
        change: Change,
        *,
        actor: Actor,
        actor_name: str,
        now_ms: int,
        evidence: Mapping[str, object],
        command: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Write a change and its event, and return the number of the event."""
        changes.check_moves(view, change, actor)
        self._failpoint("before_move")
        before: dict[str, object] = {key: getattr(view, key) for key in change.lineage}
        after: dict[str, object] = dict(change.lineage)
        # First those that leave live and canary, of which there is one each.
        for number, to_status in sorted(change.statuses.items(), key=lambda each: each[1] in {"live", "canary"}):
            version = view.get(number)
            assert version is not None, "checked with the moves"
            _set_status(connection, view.name, version, to_status=to_status, change=change, now_ms=now_ms)
        if change.statuses:
            before["versions"] = {str(n): v.status for n in change.statuses if (v := view.get(n)) is not None}
            after["versions"] = {str(number): status for number, status in change.statuses.items()}
        if change.decision is not None:
            chosen, to = change.decision
            set_range_status(connection, chosen, to)
            before["ranges"], after["ranges"] = {str(chosen.number): chosen.status}, {str(chosen.number): to}
        bumped = connection.execute(
            update(lineages)
            .where(lineages.c.name == view.name, lineages.c.row_version == view.row_version)
            .values(row_version=view.row_version + 1, **change.lineage)
        )
        _check_written(bumped.rowcount, f"lineage {view.name}")
        if change.share is not None:
            after["canary_share"] = change.share
        if change.fences:
            after["term"] = fence(connection, view.name)
        self._failpoint("before_event")
        number = event_log.append(
            connection,
            view.name,
            version=change.version,
            from_status=change.from_status,
            to_status=change.to_status,
            actor=actor_name,
            why=change.why,
            evidence=evidence,
            event_ts=now_ms,
            command=command,
            request_id=request_id,
            before=before,
            after=after,
        )
        self._failpoint("after_event")
        return number


def _set_status(
    connection: Connection, lineage: str, version: VersionView, *, to_status: str, change: Change, now_ms: int
) -> None:
    is_canary = to_status == "canary"
    values: dict[str, object] = {
        "status": to_status,
        "row_version": version.row_version + 1,
        "canary_share": change.share if is_canary else None,
        "canary_since": now_ms if is_canary else None,
    }
    if to_status == "live":
        values["live_since"] = now_ms
    changed = connection.execute(
        update(versions)
        .where(
            versions.c.lineage == lineage,
            versions.c.version == version.number,
            versions.c.row_version == version.row_version,
        )
        .values(**values)
    )
    _check_written(changed.rowcount, f"version {version.number} of {lineage}")


def _check_written(num_rows: int, what: str) -> None:
    """Refuse the transaction if another one has written the row meanwhile."""
    if num_rows != 1:
        raise StoreError(f"{what} was changed meanwhile; try again")
