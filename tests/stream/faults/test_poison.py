"""S11 and S12: payloads that are no event, and records that are too large for the parser or for the broker."""

import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.operations.produce import send_lines
from stream.operations.recount import recount
from stream.schemas import events, topics
from stream.schemas.events import MAX_EVENT_BYTES
from tests.laws.join_log import START_TS, Log, Outputs, Stored, Tables, click, impression, run
from tests.stream.faults.fault_log import DAY, DAY_MS, SHOPPERS, Arrival, log_of, on_time, shopping
from tests.stream.faults.poison import NUM_POISON, Poison, payloads

END_TS = START_TS + DAY_MS
CLIENT = SHOPPERS[0]


def _between(good: list[Arrival], poison: list[Poison], seed: int) -> list[Arrival]:
    """Return the poison among good records, as if written at moments when those arrived."""
    moments = np.random.default_rng(seed).choice([each.arrival_ts for each in good], len(poison))
    bad = [Arrival(p.topic, p.key, p.value, int(ts)) for p, ts in zip(poison, moments, strict=True)]
    return [*good, *bad]


def test_s11_two_hundred_poison_payloads_between_good_events() -> None:
    """S11: 200 dead letters with the reason and the bytes of each payload; the sessions are those of the clean log."""
    good = on_time(shopping(300, seed=11), seed=11)
    poison = payloads(CLIENT)
    clean = run(log_of(good, end_ts=END_TS), settings=DAY, max_batch=64)
    log = log_of(_between(good, poison, 11), end_ts=END_TS)
    result = run(log, settings=DAY, max_batch=64)
    assert result.outputs.final() == clean.outputs.final()
    assert result.outcomes == clean.outcomes | {"dead": NUM_POISON, "produced": clean.outcomes["produced"] + NUM_POISON}
    dead_letters = [record for record in result.outputs.records if record.topic == topics.DEAD_LETTERS]
    assert len(dead_letters) == NUM_POISON
    found = Counter((dict(each.headers)["reason"].decode(), each.key, _kept(each.value)) for each in dead_letters)
    assert found == Counter((p.reason, p.key, _kept(p.value)) for p in poison)
    for each in dead_letters:
        headers = dict(each.headers)
        source = log.records[headers["topic"].decode()][int(headers["offset"])]
        assert (source.key, _kept(source.value), source.timestamp) == (
            each.key,
            _kept(each.value),
            int(headers["append_ts"]),
        )
    assert recount([*log.events(), *result.outputs.records], DAY).is_closed


def _kept(value: bytes | None) -> bytes | None:
    return value if value is None or len(value) <= MAX_EVENT_BYTES else value[:1_024]


def test_s11_poison_delays_later_events_by_less_than_a_second() -> None:
    """S11: the good event behind all 200 payloads waits for less than 1 s, counted in this process's own time."""
    own = [replace(each, topic=topics.CLICKS) for each in payloads(CLIENT)]
    log = Log()
    log.append(topics.IMPRESSIONS, CLIENT.encode(), events.encode(impression(1, client=CLIENT)), START_TS)
    for bad in own:
        log.append(bad.topic, bad.key, bad.value, START_TS)
    log.append(topics.CLICKS, CLIENT.encode(), events.encode(click(1, 1, "item-1", client=CLIENT, at_s=5)), START_TS)
    join = Tables().join(DAY)
    join.apply(log.records[topics.IMPRESSIONS])
    started_s = time.process_time()
    output = join.apply(log.records[topics.CLICKS])
    waited_s = time.process_time() - started_s
    assert len(output.dead_letters) == NUM_POISON
    assert join.counters["clicks_joined"] == 1
    assert waited_s <= 1.0, f"{waited_s:.2f} s"


def _sized(num_bytes: int) -> bytes:
    """Return a click that is valid but for its size."""
    shortest = events.encode(click(1, 1, "item-1", client=CLIENT, at_s=5))
    return shortest[:-1] + b',"filler":"' + b"x" * (num_bytes - len(shortest) - 12) + b'"}'


@pytest.mark.parametrize("num_bytes", [MAX_EVENT_BYTES + 1, 1_000_000])
def test_s12_an_event_above_the_parser_cap_is_cut_and_named_by_its_digest(num_bytes: int) -> None:
    """S12: one byte above 64 KiB, and near the broker's cap: first KiB, sha256 of the whole, reason and size."""
    value = _sized(num_bytes)
    assert len(value) == num_bytes
    ((key, kept, headers),) = Tables().join(DAY).apply([_click_record(value)]).dead_letters
    written = dict(headers)
    assert (key, kept) == (CLIENT.encode(), value[:1_024])
    assert written["reason"] == b"too_large"
    assert written["detail"] == b"%d bytes, at most 65536" % num_bytes
    assert written["sha256"] == sha256(value).hexdigest().encode()


def test_s12_an_event_of_exactly_the_cap_joins() -> None:
    """S12: 65,536 bytes are an event."""
    join = Tables().join(DAY)
    output = join.apply([_click_record(_sized(MAX_EVENT_BYTES))])
    assert output.dead_letters == []
    assert join.waiting_events == 1


def _click_record(value: bytes, offset: int = 0) -> Stored:
    return Stored(topic=topics.CLICKS, offset=offset, timestamp=START_TS, key=CLIENT.encode(), value=value)


_MANY_LARGE = """
from tests.stream.faults.test_poison import large_slices

growth_mib = large_slices(num_slices=150, batch_size=8)
print(growth_mib)
"""


def large_slices(num_slices: int, batch_size: int) -> float:
    """Apply micro-batches of records of 1 MB and return by how many MiB the process has grown since the tenth."""
    join, outputs, offset = Tables().join(DAY), Outputs(), 0
    base_kib = 0
    for number in range(num_slices):
        value = _sized(1_000_000)
        output = join.apply([_click_record(bytes(bytearray(value)), offset + at) for at in range(batch_size)])
        offset += batch_size
        outputs.take(output)
        if number == 10:
            base_kib = _memory_kib("VmRSS")
    assert join.counters["dead"] == join.counters["too_large"] == offset
    return (_memory_kib("VmHWM") - base_kib) / 1_024


def _memory_kib(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


@pytest.mark.slow
def test_s12_memory_does_not_grow_with_large_events() -> None:
    """S12: 1,200 records of 1 MB through a process of its own: RSS grows by at most 50 MiB, dead letters included."""
    child = subprocess.run(
        [sys.executable, "-c", _MANY_LARGE], capture_output=True, text=True, check=False, timeout=300,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) <= 50.0, f"{child.stdout} MiB"


@pytest.mark.kafka
def test_s12_the_producer_names_and_counts_what_the_broker_would_refuse(kafka_broker: Broker) -> None:
    """S12: a record above the cap of the broker is refused by name, and those around it arrive."""
    small, huge = _sized(500), _sized(1_200_000)
    before = len(list(read_to_end(kafka_broker, topics.CLICKS)))
    with Producer(kafka_broker) as producer:
        produced = send_lines(producer, topics.CLICKS, [small, huge, small], raw=True)
        strict = send_lines(producer, topics.CLICKS, [huge])
        with pytest.raises(BusError, match=r"topic clicks: .*1200\d\d\d bytes"):
            producer.send(topics.CLICKS, key=b"k", value=huge)
        producer.flush()
    assert produced.num_sent == 2
    ((number, fault),) = produced.refused
    assert number == 2
    assert "the broker refuses it" in fault
    ((_, named),) = strict.refused
    assert named.startswith("too_large: 1200000 bytes, at most 65536")
    assert len(list(read_to_end(kafka_broker, topics.CLICKS))) == before + 2


@pytest.mark.kafka
def test_s12_what_the_broker_itself_refuses_is_counted(kafka_broker: Broker) -> None:
    """S12: a topic with a lower cap than the client's: acknowledged records are on the topic, the others counted."""
    _cap(kafka_broker, topics.ITEMS, 100_000)
    try:
        before = len(list(read_to_end(kafka_broker, topics.ITEMS)))
        producer = Producer(kafka_broker, linger_ms=0)
        for number in range(3):
            producer.send(topics.ITEMS, key=b"%d" % number, value=b"x" * 100)
        producer.flush()
        producer.send(topics.ITEMS, key=b"3", value=b"x" * 200_000)
        with pytest.raises(BusError, match=r"3 records were acknowledged, 1 not: MessageSizeTooLarge"):
            producer.flush()
        # An idempotent producer of kafka-python ends with the first refusal; later records are not acknowledged either.
        producer.send(topics.ITEMS, key=b"4", value=b"x" * 100)
        with pytest.raises(BusError, match="3 records were acknowledged, 2 not"):
            producer.close()
        with Producer(kafka_broker) as another:
            another.send(topics.ITEMS, key=b"4", value=b"x" * 100)
        found = list(read_to_end(kafka_broker, topics.ITEMS))[before:]
        assert sorted(record.key or b"" for record in found) == [b"0", b"1", b"2", b"4"]
    finally:
        _cap(kafka_broker, topics.ITEMS, 1_048_588)


def _cap(broker: Broker, topic: str, num_bytes: int) -> None:
    admin = KafkaAdminClient(**broker.client_config())
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(num_bytes)})])
    finally:
        admin.close()
