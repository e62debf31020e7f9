"""The lease: what renews and ends it, and that nothing is produced without it."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from aiokafka import conn, errors
from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.produce import ProduceRequest

from stream.agents import fencing
from stream.agents.fencing import Lease


class _Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def restored() -> Iterator[None]:
    before = conn.AIOKafkaConnection, consumer.GroupCoordinator
    yield
    conn.AIOKafkaConnection, consumer.GroupCoordinator = before


def test_a_lease_lasts_from_when_the_heartbeat_was_sent() -> None:
    time = _Time()
    held = Lease(10.0, lambda: None, clock=time)
    assert not held.is_valid()
    held.renew(95.0)
    assert held.is_valid()
    time.now_s = 103.1
    assert not held.is_valid(), "an answer that came late does not prolong it"


def test_an_older_answer_does_not_shorten_it() -> None:
    time = _Time()
    held = Lease(10.0, lambda: None, clock=time)
    held.renew(99.0)
    held.renew(90.0)
    time.now_s = 106.9
    assert held.is_valid()


def test_an_owner_that_the_group_has_given_up_is_mute_for_ever() -> None:
    told: list[str] = []
    held = Lease(10.0, lambda: told.append("evicted"), clock=_Time())
    held.renew(100.0)
    held.end(was_owner=True)
    held.renew(100.0)
    assert told == ["evicted"]
    assert held.is_over
    assert not held.is_valid()


def test_a_member_without_partitions_may_join_again() -> None:
    told: list[str] = []
    held = Lease(10.0, lambda: told.append("evicted"), clock=_Time())
    held.renew(100.0)
    held.end(was_owner=False)
    assert not held.is_valid()
    held.renew(100.0)
    assert held.is_valid()
    assert told == []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("prepare", "error"),
    [(lambda _held: None, errors.RequestTimedOutError), (lambda held: held.mute(), errors.ProducerFenced)],
)
def test_without_a_lease_only_produce_requests_are_refused(
    prepare: Callable[[Lease], None], error: type[Exception]
) -> None:
    async def scenario() -> None:
        held = Lease(10.0, lambda: None, clock=_Time())
        fencing.install(held)
        connection = conn.AIOKafkaConnection("127.0.0.1", 1)
        prepare(held)
        produce = ProduceRequest(transactional_id=None, required_acks=-1, timeout=1, topics=[])
        with pytest.raises(error):
            connection.send(produce)
        with pytest.raises(errors.KafkaConnectionError, match="No connection"):
            connection.send(FindCoordinatorRequest("group", 0))
        if not held.is_over:
            held.renew(100.0)
            with pytest.raises(errors.KafkaConnectionError, match="No connection"):
                connection.send(produce)

    asyncio.run(scenario())


def test_the_error_without_a_lease_is_retried_and_that_of_a_mute_worker_is_not() -> None:
    assert errors.RequestTimedOutError.retriable
    assert not errors.ProducerFenced.retriable


@pytest.mark.parametrize("name", ["_do_heartbeat", "_on_join_complete", "_on_join_prepare", "reset_generation"])
def test_what_is_overridden_exists(name: str) -> None:
    assert callable(getattr(GroupCoordinator, name))
    assert callable(conn.AIOKafkaConnection.send)
