"""Writing of a load to the broker, at full speed or at a given pace."""

import time
from collections.abc import Iterable, Iterator

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stream.broker.partitioner import partition_of
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.bench.load import NUM_PARTITIONS, START_TS, Arrival

QUIX_INPUTS = {topics.IMPRESSIONS: "quix-impressions", topics.CLICKS: "quix-clicks"}
QUIX_OUTPUT = "quix-joined"
NAIVE_OUTPUT = "naive-sessions"
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
_INPUTS = tuple(topic for topic in topics.ALL if topic.name in {*topics.INPUTS, *topics.CHANGELOGS})
_OUTPUTS = (topics.SESSIONS, topics.PROFILES, topics.UNJOINED, topics.DEAD_LETTERS, NAIVE_OUTPUT, QUIX_OUTPUT)
_BY_EVENT_TIME = frozenset(QUIX_INPUTS.values())


def renew_topics(broker: Broker) -> None:
    """Recreate the inputs, outputs and changelogs; the broker stamps records of outputs."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    known = [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]
    for future in admin.delete_topics(known).values() if known else ():
        future.result()
    while any(not name.startswith("__") for name in admin.list_topics(timeout=10).topics):
        time.sleep(0.1)
    wanted = [NewTopic(topic.name, NUM_PARTITIONS, 1, config=dict(topic.config)) for topic in _INPUTS]
    wanted += [NewTopic(name, NUM_PARTITIONS, 1, config=_STAMPED) for name in _OUTPUTS]
    # Quix Streams joins, and reads its topics in step, by the stamps of the records.
    wanted += [NewTopic(name, NUM_PARTITIONS, 1) for name in _BY_EVENT_TIME]
    for future in admin.create_topics(wanted).values():
        future.result()


def for_quix(arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
    """Return the load as Quix Streams can join it: keyed by query, without orders, ticks and poison.

    Its documented JSON deserializer is used; records that it cannot read are left out.
    """
    for arrival in arrivals:
        topic = QUIX_INPUTS.get(arrival.topic)
        if topic is not None and arrival.event_id:
            key = arrival.query_id.encode()
            home = partition_of(key, NUM_PARTITIONS)
            yield arrival._replace(topic=topic, key=key, partition=home)


def feed(broker: Broker, arrivals: Iterable[Arrival], *, speed: float | None = None) -> dict[str, int]:
    """Write records in order, wait until all are acknowledged, and return the time at which each event was first sent.

    Args:
        broker: Target.
        arrivals: Records.
        speed: Simulated seconds per second; None for full speed.
    """
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5 if speed is not None else 50,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    handed_over: dict[str, int] = {}
    started_s = time.monotonic()
    for number, arrival in enumerate(arrivals):
        if speed is not None and number % 50 == 0:
            ahead_s = started_s + (arrival.arrival_ms - START_TS) / 1_000 / speed - time.monotonic()
            if ahead_s > 0:
                producer.poll(0)
                time.sleep(ahead_s)
        handed_over.setdefault(arrival.event_id, time.time_ns() // 1_000_000)
        stamp = arrival.event_ts if arrival.topic in _BY_EVENT_TIME else 0
        while True:
            try:
                producer.produce(arrival.topic, arrival.value, arrival.key, arrival.partition, timestamp=stamp)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1_000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0, "the broker did not acknowledge the load"
    return handed_over
