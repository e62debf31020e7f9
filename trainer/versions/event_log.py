"""The event log of rollouts: what happened to a lineage or a version, who did it and why, and the values that changed.

Source: docs/rollout.md.
"""

from collections.abc import Mapping
from typing import Final, Literal

from sqlalchemy import Connection, insert

from trainer.versions.tables import rollout_events

_WHY_LENGTH: Final = 255


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
