"""The event log of rollouts: what happened to a lineage or a version, who did it and why, and the values that changed.

Source: docs/rollout.md.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, insert, select

from trainer.versions.tables import rollout_events

_WHY_LENGTH: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of `rollout_events`.

    Attributes:
        id: Number of the row; later events have higher ones.
        version: Version that it names; None if it concerns the lineage.
        from_status: Status of that version before.
        to_status: Status of that version after, or the word for what happened to the lineage.
        actor: `trainer` or `controller` with its term, or the name of a user.
        command: Command of a user.
        request_id: Id by which a repeated command is known.
        before: Values that the transaction changed, as they were; `versions` maps number to status.
        after: The same values afterwards.
        evidence: Verdicts with their numbers.
        event_ts: Epoch milliseconds.
    """

    id: int
    lineage: str
    version: int | None
    from_status: str | None
    to_status: str
    actor: str
    command: str | None
    request_id: str | None
    why: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    evidence: Mapping[str, Any]
    event_ts: int


def process(name: Literal["trainer", "controller"], term: int) -> str:
    """Return the actor of an event that a process writes, which names the term of its lease.

    >>> process("trainer", 3)
    'trainer, term 3'
    """
    return f"{name}, term {term}"


def append(
    connection: Connection,
    lineage: str,
    *,
    to_status: str,
    actor: str,
    why: str,
    event_ts: int,
    version: int | None = None,
    from_status: str | None = None,
    evidence: Mapping[str, object] | None = None,
    command: str | None = None,
    request_id: str | None = None,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> int:
    """Append an event in a transaction, and return its number.

    Args:
        connection: An open transaction.
        lineage: Name of the lineage.
        to_status: Status of the version after, or the word for what happened to the lineage.
        actor: Name of a user, or a `process`.
        why: Reason; a long one is cut.
        event_ts: Epoch milliseconds.
        version: Version that it names; None if it concerns the lineage.
        from_status: Status of that version before.
        evidence: Numbers that the decision rests on.
        command: Command of a user.
        request_id: Id by which a repeated command is known.
        before: Values that the transaction changes, as they were; `versions` maps number to status.
        after: The same values afterwards.
    """
    statement = insert(rollout_events).values(
        lineage=lineage,
        version=version,
        from_status=from_status,
        to_status=to_status,
        actor=actor,
        why=why[:_WHY_LENGTH],
        evidence=dict(evidence or {}),
        event_ts=event_ts,
        command=command,
        request_id=request_id,
        before=dict(before or {}),
        after=dict(after or {}),
    )
    return int(connection.execute(statement.returning(rollout_events.c.id)).scalar_one())


def numbered(connection: Connection, number: int) -> Event:
    """Return the event of a number that `append` returned."""
    return _event(connection.execute(select(rollout_events).where(rollout_events.c.id == number)).one())


def of_request(connection: Connection, request_id: str) -> Event | None:
    """Return the event of the command with this request id, if one was executed."""
    row = connection.execute(select(rollout_events).where(rollout_events.c.request_id == request_id)).one_or_none()
    return None if row is None else _event(row)


def history(connection: Connection, lineage: str, until_ts: int | None = None) -> list[Event]:
    """Return the events of a lineage, the oldest first, up to a time."""
    statement = select(rollout_events).where(rollout_events.c.lineage == lineage).order_by(rollout_events.c.id)
    if until_ts is not None:
        statement = statement.where(rollout_events.c.event_ts <= until_ts)
    return [_event(row) for row in connection.execute(statement)]


def last_of(connection: Connection, lineage: str, words: Collection[str]) -> str | None:
    """Return which of some words the newest event of a lineage has that has one of them as `to_status`."""
    statement = (
        select(rollout_events.c.to_status)
        .where(rollout_events.c.lineage == lineage, rollout_events.c.to_status.in_(words))
        .order_by(rollout_events.c.id.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar_one_or_none()


def _event(row: Row[Any]) -> Event:
    return Event(**{name: getattr(row, name) for name in Event.__slots__})
