"""A worker and the auditors behind transactional producers: commit, abort, an open transaction, a fenced producer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka import Producer as TransactionalProducer

from stream.broker.offsets import end_offsets
from stream.broker.partitioner import partition_of
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.settings import JoinSettings
from stream.operations.recount import recount
from stream.schemas import topics
from stream.schemas.session import unpack
from stream.wall_clock import epoch_ms
from tests.harness.faults import wait_until
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import Clicked, emitted, running, search, send

pytestmark = pytest.mark.kafka
_WATCHDOG_S = 4
_SETTINGS = {
    "SHELFWISE_JOIN__CLICK_WINDOW_S": "3",
    "SHELFWISE_JOIN__LATENESS_S": "1",
    "SHELFWISE_JOIN__WAIT_S": "1",
    "SHELFWISE_JOIN__IDLE_S": "2",
    "SHELFWISE_JOIN__PROGRESS_S": "1",
    "SHELFWISE_WORKER__WATCHDOG_S": str(_WATCHDOG_S),
}
_ITEMS = ["shoe", "shirt"]
Sent = tuple[str, bytes, bytes]


def test_only_committed_events_are_joined_and_markers_stop_nothing(fresh_kafka: Broker, tmp_path: Path) -> None:
    broker = fresh_kafka
    with running(broker, tmp_path / "home", settings=_SETTINGS, ticks="worker") as worker:
        wait_until(lambda: "owns partitions [" in worker.log, "its start", 60, lambda: worker.log)
        start_ts = epoch_ms()
        lists, clicks, aborted = _searches(range(6), start_ts)
        with _transaction(broker, "lists") as producer:
            _produce(producer, lists)
        producer = _begin(broker, "aborted")
        _produce(producer, aborted)
        producer.abort_transaction()
        zombie = _begin(broker, "fenced")
        _produce(zombie, aborted)
        with _transaction(broker, "fenced") as producer:
            _produce(producer, clicks)
        with pytest.raises(KafkaException, match="fenced by a newer instance"):
            zombie.commit_transaction()

        wait_until(lambda: len(emitted(broker)) == 6, "the sessions", 60, lambda: worker.log)
        seen = end_offsets(broker, [topics.TICKS])

        def outlasts_the_watchdog() -> bool:
            ends = end_offsets(broker, [topics.TICKS])
            return all(ends[pair] - offset > 2 * _WATCHDOG_S for pair, offset in seen.items())

        wait_until(outlasts_the_watchdog, "ticks of twice the watchdog's limit", 60, lambda: worker.log)
        assert worker.stop() == 0, worker.log
        assert "[error]" not in worker.log
    assert _clicks(broker) == {f"query-{number}": [0, 1] for number in range(6)}
    names = [*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS]
    counted = recount(chain.from_iterable(read_to_end(broker, name) for name in names), JoinSettings())
    assert (counted.produced, counted.joined, counted.is_closed) == (12, 12, True)


def test_an_open_transaction_holds_its_partition_and_no_other(fresh_kafka: Broker, tmp_path: Path) -> None:
    """A click is older than the commit of its transaction: its list may not close meanwhile."""
    broker = fresh_kafka
    numbers = range(12)
    held = partition_of(b"client-0", PARTITIONS)
    others = [number for number in numbers if partition_of(b"client-%d" % number, PARTITIONS) != held]
    with running(broker, tmp_path / "home", settings=_SETTINGS, ticks="worker") as worker:
        wait_until(lambda: "owns partitions [" in worker.log, "its start", 60, lambda: worker.log)
        lists, clicks, _ = _searches(numbers, epoch_ms())
        send(broker, lists)
        open_producer = _begin(broker, "open")
        _produce(open_producer, [sent for sent in clicks if sent[1] == b"client-0"])
        wait_until(lambda: len(emitted(broker)) >= len(others), "the others", 60, lambda: worker.log)
        assert set(emitted(broker)) == {f"query-{number}" for number in others}
        open_producer.commit_transaction()
        wait_until(lambda: len(emitted(broker)) == len(numbers), "all", 60, lambda: worker.log)
        assert _clicks(broker)["query-0"] == [0, 1]
        assert worker.stop() == 0, worker.log


def _searches(numbers: Iterable[int], event_ts: int) -> tuple[list[Sent], list[Sent], list[Sent]]:
    """Return lists, clicks on their second items, and the same clicks on their first items."""
    lists: list[Sent] = []
    clicks: dict[int, list[Sent]] = {1: [], 2: []}
    for number in numbers:
        for position, sent in clicks.items():
            shown, click = search(number, f"client-{number}", event_ts, _ITEMS, Clicked(position=position, after_ms=1))
            sent.append(click)
        lists.append(shown)
    return lists, clicks[2], clicks[1]


def _clicks(broker: Broker) -> dict[str, list[int]]:
    return {name: unpack("clicks", each.clicks).tolist() for name, each in emitted(broker).items()}


def _begin(broker: Broker, name: str) -> TransactionalProducer:
    """Return a producer with a transaction begun; it ends an open transaction of the same name."""
    producer = TransactionalProducer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": name, "partitioner": "murmur2_random"}
    )
    producer.init_transactions()
    producer.begin_transaction()
    return producer


@contextmanager
def _transaction(broker: Broker, name: str) -> Iterator[TransactionalProducer]:
    producer = _begin(broker, name)
    yield producer
    producer.commit_transaction()


def _produce(producer: TransactionalProducer, records: Iterable[Sent]) -> None:
    for topic, key, value in records:
        producer.produce(topic, key=key, value=value)
    assert producer.flush(30) == 0
