"""Fencing of this worker's writes by group membership: a paused process must not write after it lost its partitions.

Kafka fences the offset commits of a member that it has expelled, but not what that member produces: its rows would
overwrite those of the next owner of its partitions. The permission to write lasts a part of the session timeout from
the time at which the newest answered heartbeat was sent, and is checked in the call that writes to the socket. The
content of the socket's own buffer when the process is paused is not covered.

Replaces two private classes of one pinned aiokafka; tests/stream/agents/test_fencing.py pins their behaviour.

Source: docs/adr/0009-fenced-by-membership.md.
"""

import time
from collections.abc import Callable

from aiokafka import conn, errors
from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.produce import ProduceRequest

_SAFE_SHARE = 0.8
Clock = Callable[[], float]


class MembershipFence:
    """Permission of this worker to write, as a member of its group.

    The consumer's thread extends and ends it, the worker's loop reads it.

    Attributes:
        is_closed: Whether nothing may be written any more, even if heartbeats are answered.
        num_failures: Number of heartbeats without an answer: the broker may have been restarted.
    """

    def __init__(self, session_s: float, on_expelled: Callable[[], object], clock: Clock = time.monotonic) -> None:
        """Start without permission.

        Args:
            session_s: Session timeout of the group.
            on_expelled: Called in the consumer's thread when the group expels a member that owns partitions.
            clock: Monotonic seconds, also counted while the process is paused.
        """
        self._valid_s = _SAFE_SHARE * session_s
        self._on_expelled = on_expelled
        self._clock = clock
        self._until_s: float | None = None
        self.is_closed = False
        self.num_failures = 0

    def allows_writes(self) -> bool:
        """Return whether no other worker can own this worker's partitions yet."""
        until_s = self._until_s  # the other thread may change it meanwhile
        return not self.is_closed and until_s is not None and self._clock() < until_s

    def now_s(self) -> float:
        """Return the time on the clock of the fence."""
        return self._clock()

    def extend(self, sent_s: float) -> None:
        """Extend the permission after an answered heartbeat that was sent at `sent_s`.

        >>> fence = MembershipFence(10.0, lambda: None, clock=lambda: 7.0)
        >>> fence.allows_writes()
        False
        >>> fence.extend(0.0)
        >>> fence.allows_writes()
        True
        """
        until_s = sent_s + self._valid_s
        self._until_s = until_s if self._until_s is None else max(self._until_s, until_s)

    def end_membership(self, *, was_owner: bool) -> None:
        """End the permission, because the group does not know this member; close the fence of an owner."""
        self._until_s = None
        if was_owner:
            self.close()
            self._on_expelled()

    def close(self) -> None:
        """Refuse all writes from now on."""
        self.is_closed = True


def install(fence: MembershipFence) -> None:
    """Bind every producer and group member that this process makes from now on to `fence`."""
    conn.AIOKafkaConnection = type("FencedConnection", (_Connection,), {"fence": fence})
    consumer.GroupCoordinator = type("FencedCoordinator", (_Coordinator,), {"fence": fence})


class _Connection(conn.AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    fence: MembershipFence

    def send(self, request: object, expect_response: bool = True) -> object:  # noqa: FBT001, FBT002 - as overridden
        """Refuse to produce without permission; the sender tries again while it may come back."""
        if isinstance(request, ProduceRequest) and not self.fence.allows_writes():
            if self.fence.is_closed:
                raise errors.ProducerFenced("this worker's partitions may have another owner")
            raise errors.RequestTimedOutError("no heartbeat was answered for most of the session timeout")
        return super().send(request, expect_response)


class _Coordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka has no types
    fence: MembershipFence
    _is_owner = False

    async def _do_heartbeat(self) -> bool:
        sent_s = self.fence.now_s()
        answered: bool = await super()._do_heartbeat()
        if answered:
            self.fence.extend(sent_s)
        else:
            self.fence.num_failures += 1
        return answered

    async def _on_join_complete(self, *joined: object) -> None:
        self._is_owner = True
        # The next regular heartbeat is a second away.
        await self._do_heartbeat()
        await super()._on_join_complete(*joined)

    async def _on_join_prepare(self, *previous: object) -> None:
        await super()._on_join_prepare(*previous)
        self._is_owner = False

    def reset_generation(self) -> None:
        """End the membership: the coordinator does not know this member, or the member leaves."""
        self.fence.end_membership(was_owner=self._is_owner and not self._closing.done())
        super().reset_generation()
