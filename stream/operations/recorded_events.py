"""Recorded events of other systems, adapted and sorted for a replay, and the wait for the join behind it.

Source: docs/adapters.md; docs/stream.md.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from stream.adapters import Options, adapt
from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import SchemaError
from stream.operations.event_files import Payload
from stream.operations.ingest import Ingested, Sender, count, send_dead_letter
from stream.operations.replay import Replayed
from stream.operations.sorted_runs import in_order
from stream.schemas import session, topics
from stream.schemas.session import Progress

_TAIL = 50
"""Records at the end of a partition of `sessions` among which its newest progress record lies."""
_RANK: Mapping[str, int] = {topic: rank for rank, topic in enumerate(topics.EVENT_TOPICS)}
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[str, bytes, bytes])


def recorded(
    dead_letters: Sender | None,
    name: str,
    payloads: Iterable[Payload],
    done: Ingested,
    *,
    options: Options,
    now_ms: Callable[[], int],
) -> Iterator[Replayed]:
    """Yield the records of payloads in the order of event time; of equal times lists first, then clicks, then orders.

    All payloads are read, and their rejects sent, before the first record is yielded. More records than fit into memory
    wait in temporary files.

    Args:
        dead_letters: Takes the dead letters of rejected payloads; None only counts.
        name: The format.
        payloads: Payloads of files, in any order.
        done: Counts, which this adds to.
        options: What adapters need to know of the shop.
        now_ms: Epoch milliseconds, for dead letters.

    Raises:
        BusError: If a dead letter was not acknowledged.
        EventFileError: If a file is damaged.
        OSError: If a temporary file cannot be written.
    """

    def entries() -> Iterator[tuple[int, bytes]]:
        for payload in payloads:
            adapted, rejected = adapt(name, payload.raw, options)
            count(done, payload, adapted, rejected, options)
            send_dead_letter(
                dead_letters, name, payload=payload, adapted=adapted, rejected=rejected, options=options, now_ms=now_ms
            )
            for each in adapted:
                key = each.record.event_ts * len(_RANK) + _RANK[each.topic]
                yield key, _encoder.encode((each.topic, each.key, each.value))
        if dead_letters is not None:
            dead_letters.flush()

    for key, content in in_order(entries()):
        topic, client, value = _decoder.decode(content)
        yield Replayed(event_ts=key // len(_RANK), topic=topic, key=client, value=value)


def wait_for_join(
    broker: Broker,
    watermark_ts: int,
    *,
    patience_s: float,
    on_wait: Callable[[int, int], None] = lambda _done, _all: None,
    monotonic: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Wait until the watermark of each partition has reached `watermark_ts`, and return the partitions that have not.

    The time of a tick is no sign of the end: the join reads ticks ahead of the events that lie before them.

    Args:
        broker: Where the topics are.
        watermark_ts: Time at which every window of the join is over.
        patience_s: Longest time without a new record in `sessions`.
        on_wait: Gets the number of finished partitions and of all, after each poll.
        monotonic: Seconds of a clock that never moves back.

    Raises:
        BusError: If the broker is unreachable or a topic does not exist.
    """
    first, ends = beginning_offsets(broker, [topics.SESSIONS]), end_offsets(broker, [topics.SESSIONS])
    waiting = {partition for _, partition in ends}
    num_partitions = len(waiting)
    positions = {pair: max(first[pair], end - _TAIL) for pair, end in ends.items()}
    deadline = monotonic() + patience_s
    with Reader(broker, positions) as reader:
        while waiting and monotonic() < deadline:
            records = reader.poll()
            for record in records:
                if _watermark_ts(record.value) >= watermark_ts:
                    waiting.discard(record.partition)
            if records:
                deadline = monotonic() + patience_s
            on_wait(num_partitions - len(waiting), num_partitions)
    return sorted(waiting)


def _watermark_ts(value: bytes | None) -> int:
    try:
        content = session.decode(value or b"")
    except SchemaError:
        return 0
    return content.watermark_ts if isinstance(content, Progress) else 0
