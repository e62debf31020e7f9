"""S11: header names that are no text, which Kafka takes from any client, do not stop the worker."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from kafka import KafkaProducer

from stream.broker.offsets import append_times
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import topics
from stream.schemas.dead_letter import Coordinates, collect, payloads
from tests.harness.worker import START_TS, emitted, pass_all_windows, running, shopping, wait_until_committed

NUM_QUERIES = 120
NUM_POISON = 20
_NAMES = (b"\xff\xfe", b"\xed\xa0\x80", b"name\xc3")
_LETTER_HEADERS = {"reason", "detail", "topic", "partition", "offset", "append_ts", "attempt", "first_seen"}

Outgoing = tuple[str, bytes, bytes, Sequence[tuple[str, bytes]]]


class _NotText(str):
    """A header's name that goes to the broker as bytes that are no UTF-8, as clients without that rule send them."""

    _raw: bytes

    def __new__(cls, raw: bytes) -> "_NotText":
        made = super().__new__(cls, "?")
        made._raw = raw
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self._raw


def _send(broker: Broker, records: Iterable[Outgoing], *, codec: str | None) -> list[Coordinates]:
    """Send the records in batches of many, and return where each of them lies."""
    producer = KafkaProducer(**broker.client_config(), compression_type=codec, linger_ms=2_000, acks="all")
    try:
        futures = [producer.send(name, key=key, value=value, headers=list(hs)) for name, key, value, hs in records]
        producer.flush(timeout=60)
        written = [future.get(timeout=0) for future in futures]
    finally:
        producer.close(timeout=10)
    return [(each.topic, each.partition, each.offset) for each in written]


def _poison(number: int) -> Outgoing:
    """A payload that is no JSON, as if redriven once, under a header that is no text."""
    name = _NotText(_NAMES[number % len(_NAMES)])
    headers = [("redriven_from", b"clicks/0/1"), (name, b"v"), ("attempt", b"2")]
    return topics.EVENT_TOPICS[number % 3], b"client-%d" % number, b"{%d" % number, headers


def _with_headers(part: Sequence[tuple[str, bytes, bytes]]) -> list[Outgoing]:
    """Every other record under a header that is no text."""
    return [
        (topic, key, value, [(_NotText(_NAMES[number % len(_NAMES)]), b"v")] if number % 2 else [("name", b"v")])
        for number, (topic, key, value) in enumerate(part)
    ]


@pytest.mark.kafka
def test_s11_header_names_that_are_no_text_do_not_stop_the_worker(fresh_kafka: Broker, tmp_path: Path) -> None:
    """S11: worker restarts = 0; a dead letter for each bad payload, with its bytes; all others join."""
    events = list(shopping(NUM_QUERIES))
    half = len(events) // 2
    sent: dict[Coordinates, tuple[bytes, bytes]] = {}
    home = tmp_path / "home"
    for codec, part, numbers in (
        ("gzip", events[:half], range(NUM_POISON // 2)),
        (None, events[half:], range(NUM_POISON // 2, NUM_POISON)),
    ):
        poison = [_poison(number) for number in numbers]
        good = _with_headers(part)
        middle = len(good) // 2
        places = _send(fresh_kafka, [*good[:middle], *poison, *good[middle:]], codec=codec)
        bad = zip(places[middle : middle + len(poison)], poison, strict=True)
        sent |= {place: (key, value) for place, (_, key, value, _) in bad}
        if codec is None:
            pass_all_windows(fresh_kafka, START_TS + NUM_QUERIES * 1_000)
        # The second worker starts where the first one has stopped, with such records before it.
        with running(fresh_kafka, home) as worker:
            wait_until_committed(fresh_kafka, worker)
            assert worker.stop() == 0, worker.log

    records = list(read_to_end(fresh_kafka, topics.DEAD_LETTERS))
    found = collect(records)
    assert (len(records), found.num_unreadable) == (NUM_POISON, 0)
    assert {each.coordinates for each in found.dead_letters} == sent.keys()
    for each in found.dead_letters:
        (record,) = payloads(records, {each.location})
        assert (record.key, record.value) == sent[each.coordinates]
        assert (each.reason, each.attempt) == ("not_json", 2)
        assert {name for name, _ in record.headers} == _LETTER_HEADERS | {"redriven_from"}

    final = emitted(fresh_kafka)
    assert set(final) == {f"query-{number}" for number in range(NUM_QUERIES)}
    for number in range(NUM_QUERIES):
        found_session = final[f"query-{number}"]
        actions = {*(["purchase"] if number % 6 == 0 else []), *(["refund"] if number % 12 == 0 else [])}
        assert found_session.column("clicks").tolist() == [0, 0, int(number % 3 == 0), *[0] * 5], f"query-{number}"
        assert {line.action for line in found_session.lines} == actions, f"query-{number}"
    assert list(read_to_end(fresh_kafka, topics.UNJOINED)) == []


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["gzip", None])
def test_s11_readers_take_header_names_that_are_no_text(codec: str | None, fresh_kafka: Broker) -> None:
    """Recount, verify and the worker's own look at its inputs read them too: each record once, in order, whole."""
    key, poison = b"client-1", _poison(1)
    good = (poison[0], key, b"good", [("name", b"v")])
    wanted = [good, (poison[0], key, *poison[2:]), good, good, (poison[0], key, *poison[2:])]
    places = _send(fresh_kafka, wanted, codec=codec)
    assert len({place[:2] for place in places}) == 1
    found = list(read_to_end(fresh_kafka, poison[0]))
    assert [(r.topic, r.partition, r.offset) for r in found] == places
    assert [(r.key, r.value) for r in found] == [(each[1], each[2]) for each in wanted]
    before, name, after = (name for name, _ in found[1].headers)
    assert (before, after) == ("redriven_from", "attempt")
    # The broker decompresses compressed batches and writes names anew.
    assert name == "\\xed\\xa0\\x80" if codec is None else set(name) == {"\N{REPLACEMENT CHARACTER}"}
    for place, record in zip(places, found, strict=True):
        assert append_times(fresh_kafka, {place[:2]: place[2]}) == {place[:2]: record.timestamp}
