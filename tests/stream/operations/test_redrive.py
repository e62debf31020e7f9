"""Redriven dead letters: sent and refused ones, the rate, and sums that close over join, redrive and join."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec
import pytest

from stream.adapters import Options, Rejected, adapt
from stream.adapters.rejects import dead_letter_of
from stream.broker.partitioner import partition_of
from stream.errors import BusError
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.operations.join_in_memory import LogRecord
from stream.operations.recount import Recount, recount
from stream.operations.redrive import TokenBucket, outgoing, plan, redrive
from stream.operations.verify import verify
from stream.schemas import dead_letter, events, topics
from stream.schemas.dead_letter import Filter
from tests.laws.join_log import CLIENTS, click, impression, purchase
from tests.stream.schemas.test_dead_letter import written

PARTITIONS = 4
HERE = partition_of(CLIENTS[0].encode(), PARTITIONS)
SETTINGS = JoinSettings(ticks="driver")
BASE_MS = 1_700_000_000_000


@dataclass
class Cluster:
    """Topics in memory, joined by one join per partition; a sender too."""

    log: dict[tuple[str, int], list[LogRecord]] = field(default_factory=dict)
    joins: list[Join] = field(
        default_factory=lambda: [
            Join(p, SETTINGS, hot={}, warm={}, progress={}, num_partitions=PARTITIONS) for p in range(PARTITIONS)
        ]
    )
    read: dict[tuple[str, int], int] = field(default_factory=dict)
    fails: bool = False

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        number = partition if partition is not None else partition_of(key or b"", PARTITIONS)
        log = self.log.setdefault((topic, number), [])
        log.append(LogRecord(topic, number, len(log), timestamp_ms or 1_000, key, value, tuple(headers)))

    def flush(self, timeout_s: float = 30.0) -> None:
        if self.fails:
            raise BusError(f"nothing was acknowledged in {timeout_s} s")

    def put(self, event: events.Event, *, partition: int | None = None, value: bytes | None = None) -> None:
        topic = {"impression": topics.IMPRESSIONS, "purchase": topics.CONVERSIONS}.get(
            event.action_name, topics.CLICKS  # type: ignore[attr-defined]  # each kind of event names its action
        )  # fmt: skip
        self.send(topic, key=event.client_id.encode(), value=value or events.encode(event), partition=partition)

    def join(self, at_s: int) -> None:
        """Tick at a time and once more when all topics count as quiet, and have all of it joined."""
        for step in range(2):
            for partition in range(PARTITIONS):
                hw = {name: len(self.log.get((name, partition), [])) for name in topics.EVENT_TOPICS}
                now_ts = BASE_MS + (at_s + 60 * step) * 1_000
                tick = events.Tick(partition=partition, seq=0, worker="test", hw=hw, now_ts=now_ts)
                self.send(topics.TICKS, key=None, value=events.encode(tick), partition=partition)
            for partition, join in enumerate(self.joins):
                for name in topics.INPUTS:
                    self._apply(join, name, partition)

    def _apply(self, join: Join, name: str, partition: int) -> None:
        log = self.log.get((name, partition), [])
        effects = join.apply(log[self.read.get((name, partition), 0) :])
        self.read[name, partition] = len(log)
        for key, value in effects.sessions:
            self.send(topics.SESSIONS, key=key, value=value, partition=partition)
        for topic, found in ((topics.UNJOINED, effects.unjoined), (topics.DEAD_LETTERS, effects.dead_letters)):
            for letter_key, letter, headers in found:
                self.send(topic, key=letter_key, value=letter, partition=partition, headers=headers)

    def records(self, *names: str) -> list[LogRecord]:
        return [record for (name, _), log in self.log.items() if not names or name in names for record in log]

    def redrive(self, topic: str, meant: Filter | None = None) -> dict[str, int]:
        """Redrive and return the refused by cause, and the records sent under `sent`."""
        found = dead_letter.collect(self.records(topic)).dead_letters
        done = redrive(
            self,
            topic,
            plan(found, meant or Filter()),
            self.records(topic),
            options=Options(),
            bucket=TokenBucket(1_000, lambda: 0.0, lambda _: pytest.fail("too slow")),
            now_ms=lambda: 5_000,
        )
        return dict(done.refused) | {"sent": sum(done.records.values())}

    def books(self) -> Recount:
        """Return the recount, which must close, agree with the join's own counters and with the batch oracle."""
        counted = recount(self.records(), SETTINGS)
        assert counted.is_closed
        # What the join has placed in a list that is open is open to those who read topics alone.
        settled = ("joined", "duplicate") if counted.open == 0 else ()
        for name in ("produced", "late", "orphan", "dead", *settled):
            assert getattr(counted, name) == sum(join.counters.get(name, 0) for join in self.joins), name
        return counted


def of_tomorrow(event: events.Event) -> bytes:
    """Return an event of a schema that is not known yet."""
    content = msgspec.json.decode(events.encode(event), type=dict[str, object])
    return msgspec.json.encode(content | {"schema_version": 2})


@pytest.fixture
def shop() -> Cluster:
    """A list with a good click, and one click each that was misrouted, is of tomorrow's schema, or has no list yet."""
    cluster = Cluster()
    cluster.put(impression(1))
    cluster.put(click(1, 1, "item-1", at_s=5))
    cluster.put(click(2, 1, "item-2", at_s=6), partition=(HERE + 1) % PARTITIONS)
    newer = of_tomorrow(click(3, 1, "item-0", at_s=7))
    cluster.put(click(3, 1, "item-0"), value=newer)
    cluster.put(click(4, 2, "item-1", at_s=8))
    cluster.put(purchase(1, 1, ["item-1", "item-5"], at_s=9))
    cluster.join(at_s=400)
    return cluster


def test_redriven_letters_end_where_they_belong(shop: Cluster) -> None:
    before = shop.books()
    assert before.reasons == {"misrouted": 1, "schema_unknown": 1, "no_impression": 1, "not_in_list": 1}
    shop.put(impression(2, at_s=1))
    assert shop.redrive(topics.DEAD_LETTERS) == {"sent": 2}
    assert shop.redrive(topics.UNJOINED) == {"sent": 2}
    shop.join(at_s=500)
    shop.join(at_s=5_000)
    after = shop.books()
    # The misrouted click and the orphan join; tomorrow's click is dead again; of the order, the joined line is a
    # duplicate and the other an orphan still.
    assert (after.joined, after.duplicate) == (before.joined + before.open + 3, 1)
    assert after.reasons == {"misrouted": 1, "schema_unknown": 2, "no_impression": 1, "not_in_list": 2}
    assert after.produced == before.produced + 6
    assert verify(shop.records(), SETTINGS).is_equal


def test_asking_again_sends_only_what_died_again(shop: Cluster) -> None:
    shop.redrive(topics.DEAD_LETTERS)
    assert shop.redrive(topics.DEAD_LETTERS) == {"already_redriven": 2, "sent": 0}
    shop.join(at_s=500)
    assert shop.redrive(topics.DEAD_LETTERS) == {"already_redriven": 2, "sent": 1}
    shop.join(at_s=600)
    newest = max(dead_letter.collect(shop.records(topics.DEAD_LETTERS)).dead_letters, key=lambda each: each.attempt)
    assert (newest.attempt, newest.reason, newest.first_seen) == (3, "schema_unknown", 1_000)
    assert shop.redrive(topics.DEAD_LETTERS) == {"already_redriven": 3, "too_many_attempts": 1, "sent": 0}
    chain = [dict(record.headers).get("redriven_from") for record in shop.records(topics.CLICKS)]
    assert sum(source is not None for source in chain) == 3
    assert shop.books().dead == 4


def test_what_was_not_acknowledged_is_not_marked(shop: Cluster) -> None:
    shop.fails = True
    with pytest.raises(BusError):
        shop.redrive(topics.DEAD_LETTERS)
    shop.fails = False
    assert shop.redrive(topics.DEAD_LETTERS) == {"sent": 2}
    shop.join(at_s=500)
    shop.join(at_s=5_000)
    assert shop.books().reasons["schema_unknown"] == 3
    assert shop.books().duplicate == 1


def test_cut_payloads_and_ticks_stay() -> None:
    cluster = Cluster()
    client = CLIENTS[0].encode()
    cluster.send(topics.CLICKS, key=client, value=b"x" * (events.MAX_EVENT_BYTES + 1))
    cluster.send(topics.TICKS, key=b"0", value=b"never", partition=0)
    cluster.join(at_s=1)
    assert cluster.redrive(topics.DEAD_LETTERS) == {"payload_cut": 1, "no_event": 1, "sent": 0}
    assert cluster.books().dead == 1


def test_limit_counts_what_is_redriven(shop: Cluster) -> None:
    assert shop.redrive(topics.DEAD_LETTERS, Filter(limit=1)) == {"sent": 1}
    assert shop.redrive(topics.DEAD_LETTERS, Filter(limit=1)) == {"already_redriven": 1, "sent": 1}


def test_an_order_is_sent_once_for_all_its_lines() -> None:
    found = dead_letter.collect(
        written(1, at, line_id=line, reason=reason)
        for at, (line, reason) in enumerate((("1", "no_click"), ("2", "not_in_list")))
    ).dead_letters
    planned = plan(
        [replace(each, topic=topics.CONVERSIONS) for each in found], Filter(reasons=frozenset({"not_in_list"}))
    )
    ((place, settled),) = planned.records.items()
    assert place == (0, 1)
    assert [each.line_id for each in settled] == ["1", "2"]


def test_the_key_is_the_client_where_one_can_be_read() -> None:
    letter = dead_letter.read(written(1, 0))
    assert letter is not None
    for value, key in ((b'{"client_id": "c9"}', b"c9"), (b"\xff", b"k"), (None, b"k")):
        record = LogRecord(topics.DEAD_LETTERS, 0, 0, 0, b"k", value)
        (sent,) = outgoing(letter, record, Options(), now_ms=0)
        assert (sent.topic, sent.key, sent.value) == ("clicks", key, value)
        assert sent.headers == [("redriven_from", b"clicks/0/5"), ("attempt", b"2"), ("first_seen", b"7")]


GOOD = b'{"event":"ranking","id":"81f46c34","timestamp":"1599391467000","user":"u1","session":"s1","fields":[],"items":[{"id":"item3"}]}'  # noqa: E501
BAD = b'{"event": "item"}'


def _ingested(payload: bytes, rejects: list[Rejected], attempt: bytes = b"1") -> LogRecord:
    key, value, headers = dead_letter_of("metarank", rejects, now_ms=9_000, key=b"u1")
    kept = [pair for pair in headers if pair[0] != "attempt"]
    assert value == payload
    return LogRecord(topics.DEAD_LETTERS, 0, 0, 0, key, value, [*kept, ("attempt", attempt)])


def test_a_payload_that_its_adapter_takes_now_becomes_records() -> None:
    record = _ingested(GOOD, [Rejected(reason="internal", detail="a fault of yesterday", raw=GOOD)])
    letter = dead_letter.read(record)
    assert letter is not None
    (sent,) = outgoing(letter, record, Options(), now_ms=0)
    assert (sent.topic, sent.key) == (topics.IMPRESSIONS, b"u1")
    assert dict(sent.headers)["redriven_from"] == f"ingest:metarank/0/{letter.offset}".encode()


def test_a_payload_rejected_as_before_stays_and_one_rejected_anew_is_a_newer_attempt() -> None:
    _, rejects = adapt("metarank", BAD)
    cluster = Cluster()
    record = _ingested(BAD, rejects)
    cluster.send(topics.DEAD_LETTERS, key=b"u1", value=BAD, headers=record.headers)
    assert cluster.redrive(topics.DEAD_LETTERS) == {"rejected_as_before": 1, "sent": 0}
    other = _ingested(BAD, [Rejected(reason="internal", detail="a fault of yesterday", raw=BAD)], attempt=b"2")
    cluster.send(topics.DEAD_LETTERS, key=b"u1", value=BAD, headers=other.headers)
    assert cluster.redrive(topics.DEAD_LETTERS) == {"sent": 1}
    (letter,) = dead_letter.collect(cluster.records(topics.DEAD_LETTERS)).dead_letters
    assert (letter.attempt, letter.reason, letter.redriven_ts) == (3, "unmapped", None)


def test_token_bucket() -> None:
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        slept[0] += seconds

    bucket = TokenBucket(20, lambda: now[0], sleep)
    for _ in range(42):
        bucket.take()
    assert slept[0] == pytest.approx(2.0), "two at once, forty over two seconds"
    now[0] += 100
    for _ in range(2):
        bucket.take()
    assert slept[0] == pytest.approx(2.0)
    bucket.take()
    assert slept[0] == pytest.approx(2.05)
    with pytest.raises(ValueError, match="more than 0"):
        TokenBucket(0, lambda: 0.0, sleep)
