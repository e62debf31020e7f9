"""Writes only while the group counts this worker as a member, so that a process that was stopped and wakes up is mute.

Kafka fences the offset commits of a member that it has given up, but not what that member produces: its rows would
overwrite those of the next owner of its partitions. The lease lasts a part of the session timeout from when the
newest heartbeat that was answered had been sent, and is looked at in the same call that writes to the socket. What
the socket's own buffer holds when the process is stopped is the one thing that it does not cover.

Replaces two private classes of one pinned aiokafka; tests/stream/agents/test_fencing.py pins what is relied on.

Source: RELIABILITY.md 4, S4.
"""

import time
from collections.abc import Callable

from aiokafka import conn, errors
from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.produce import ProduceRequest

_SAFE_SHARE = 0.8
Clock = Callable[[], float]


class Lease:
    """Says whether the group still counts this worker as a member.

    The consumer's thread renews and ends it, the worker's loop reads it.
    """

    def __init__(self, session_s: float, on_evicted: Callable[[], object], clock: Clock = time.monotonic) -> None:
        """Start without a lease.

        Args:
            session_s: Session timeout of the group.
            on_evicted: Called in the consumer's thread when the group has given up a member that owns partitions.
            clock: Monotonic, and running while the process is stopped.
        """
        self._valid_s = _SAFE_SHARE * session_s
        self._on_evicted = on_evicted
        self._clock = clock
        self._until_s: float | None = None
        self.is_over = False
        """Whether nothing may be written any more, whatever heartbeats say."""
        self.num_failures = 0
        """Heartbeats that were not answered: the broker may have been started again."""

    def is_valid(self) -> bool:
        """Say whether no other worker can own this one's partitions yet."""
        until_s = self._until_s  # the other thread may change it meanwhile
        return not self.is_over and until_s is not None and self._clock() < until_s

    def now_s(self) -> float:
        """Return the time by which leases are measured."""
        return self._clock()

    def renew(self, sent_s: float) -> None:
        """Take note of an answered heartbeat that was sent at `sent_s`.

        >>> lease = Lease(10.0, lambda: None, clock=lambda: 7.0)
        >>> lease.is_valid()
        False
        >>> lease.renew(0.0)
        >>> lease.is_valid()
        True
        """
        until_s = sent_s + self._valid_s
        self._until_s = until_s if self._until_s is None else max(self._until_s, until_s)

    def end(self, *, was_owner: bool) -> None:
        """Take note that the group does not know this member."""
        self._until_s = None
        if was_owner:
            self.mute()
            self._on_evicted()

    def mute(self) -> None:
        """Let nothing be written any more."""
        self.is_over = True


def install(lease: Lease) -> None:
    """Bind every producer and group member that this process makes from now on to `lease`."""
    conn.AIOKafkaConnection = type("LeasedConnection", (_Connection,), {"lease": lease})
    consumer.GroupCoordinator = type("LeasedCoordinator", (_Coordinator,), {"lease": lease})


class _Connection(conn.AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    lease: Lease

    def send(self, request: object, expect_response: bool = True) -> object:  # noqa: FBT001, FBT002 - as overridden
        """Refuse to produce without a lease; the sender tries again while it may come back."""
        if isinstance(request, ProduceRequest) and not self.lease.is_valid():
            if self.lease.is_over:
                raise errors.ProducerFenced("this worker's partitions may have another owner")
            raise errors.RequestTimedOutError("no heartbeat was answered for most of the session timeout")
        return super().send(request, expect_response)


class _Coordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka has no types
    lease: Lease
    _is_owner = False

    async def _do_heartbeat(self) -> bool:
        sent_s = self.lease.now_s()
        answered: bool = await super()._do_heartbeat()
        if answered:
            self.lease.renew(sent_s)
        else:
            self.lease.num_failures += 1
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
        """Called when the coordinator does not know this member, and on leaving."""
        self.lease.end(was_owner=self._is_owner and not self._closing.done())
        super().reset_generation()
