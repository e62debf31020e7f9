"""The membership fence: heartbeats extend the permission to write, and nothing is produced without it."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from aiokafka import conn, errors
from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.produce import ProduceRequest

from stream.agents import fencing
from stream.agents.fencing import MembershipFence


class _Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def restored() -> Iterator[None]:
    before = conn.AIOKafkaConnection, consumer.GroupCoordinator
    yield
    conn.AIOKafkaConnection, consumer.GroupCoordinator = before


def test_the_permission_lasts_from_the_sending_of_the_heartbeat() -> None:
    time = _Time()
    fence = MembershipFence(10.0, lambda: None, clock=time)
    assert not fence.allows_writes()
    fence.extend(95.0)
    assert fence.allows_writes()
    time.now_s = 103.1
    assert not fence.allows_writes(), "an answer that came late does not prolong it"


def test_an_older_answer_does_not_shorten_it() -> None:
    time = _Time()
    fence = MembershipFence(10.0, lambda: None, clock=time)
    fence.extend(99.0)
    fence.extend(90.0)
    time.now_s = 106.9
    assert fence.allows_writes()


def test_the_fence_of_an_expelled_owner_stays_closed() -> None:
    told: list[str] = []
    fence = MembershipFence(10.0, lambda: told.append("expelled"), clock=_Time())
    fence.extend(100.0)
    fence.end_membership(was_owner=True)
    fence.extend(100.0)
    assert told == ["expelled"]
    assert fence.is_closed
    assert not fence.allows_writes()


def test_a_member_without_partitions_may_join_again() -> None:
    told: list[str] = []
    fence = MembershipFence(10.0, lambda: told.append("expelled"), clock=_Time())
    fence.extend(100.0)
    fence.end_membership(was_owner=False)
    assert not fence.allows_writes()
    fence.extend(100.0)
    assert fence.allows_writes()
    assert told == []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("prepare", "error"),
    [(lambda _: None, errors.RequestTimedOutError), (lambda fence: fence.close(), errors.ProducerFenced)],
)
def test_without_permission_only_produce_requests_are_refused(
    prepare: Callable[[MembershipFence], None], error: type[Exception]
) -> None:
    async def scenario() -> None:
        fence = MembershipFence(10.0, lambda: None, clock=_Time())
        fencing.install(fence)
        connection = conn.AIOKafkaConnection("127.0.0.1", 1)
        prepare(fence)
        produce = ProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[])
        with pytest.raises(error):
            connection.send(produce)
        with pytest.raises(errors.KafkaConnectionError, match="No connection"):
            connection.send(FindCoordinatorRequest("group", 0))
        if not fence.is_closed:
            fence.extend(100.0)
            with pytest.raises(errors.KafkaConnectionError, match="No connection"):
                connection.send(produce)

    asyncio.run(scenario())


def test_the_error_without_permission_is_retried_and_that_of_a_closed_fence_is_not() -> None:
    assert errors.RequestTimedOutError.retriable
    assert not errors.ProducerFenced.retriable


@pytest.mark.parametrize("name", ["_do_heartbeat", "_on_join_complete", "_on_join_prepare", "reset_generation"])
def test_what_is_closedridden_exists(name: str) -> None:
    assert callable(getattr(GroupCoordinator, name))
    assert callable(conn.AIOKafkaConnection.send)
