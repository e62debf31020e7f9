"""The clock of simulations and replays: ticks that carry simulated time and what the input topics hold.

A driver owns the clock of its topics: while one runs, the join's workers write no ticks (`join.ticks = driver`).
"""

from typing import Self

import msgspec

from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.operations.log_tails import LogTails
from stream.schemas import topics
from stream.schemas.events import Tick, encode

_decoder = msgspec.json.Decoder(Tick)
HighWatermarks = dict[tuple[str, int], int]


def newest_ts(broker: Broker) -> int | None:
    """Return the latest `now_ts` that a driver has written to `ticks`, or None where none has.

    A second run on the same topics must start after it, as the join's clock never moves back.

    Raises:
        BusError: If the broker is unreachable or the topic does not exist.
    """
    times = [tick.now_ts for tick, _ in _last_ticks(broker) if tick.now_ts is not None]
    return max(times, default=None)


def clock_ts(broker: Broker) -> int | None:
    """Return the time of the latest tick of a driver or a worker, or None where `ticks` is empty.

    Raises:
        BusError: If the broker is unreachable or the topic does not exist.
    """
    times = [tick.now_ts if tick.now_ts is not None else append_ts for tick, append_ts in _last_ticks(broker)]
    return max(times, default=None)


def _last_ticks(broker: Broker) -> list[tuple[Tick, int]]:
    """Return the last tick of each partition that has one, and the timestamp of its record."""
    first = beginning_offsets(broker, [topics.TICKS])
    last = {pair: end - 1 for pair, end in end_offsets(broker, [topics.TICKS]).items() if end > first[pair]}
    if not last:
        return []
    with Reader(broker, last) as reader:
        records = list(reader.read_to({pair: offset + 1 for pair, offset in last.items()}))
    return [(_decoder.decode(record.value or b""), record.timestamp) for record in records]


class Ticker:
    """A writer of one tick per partition at a time that the caller gives."""

    def __init__(self, broker: Broker, producer: Producer, *, writer: str) -> None:
        """Find the partitions of `ticks`.

        Raises:
            BusError: If the broker is unreachable or the topic does not exist.
        """
        # One kept connection: asking anew costs a hundred milliseconds. A topic with an open transaction is slow, not
        # idle, so its end is that of the log.
        self._inputs = Reader(broker, end_offsets(broker, topics.EVENT_TOPICS), isolation="read_uncommitted")
        self._tails = LogTails(broker)
        self._producer = producer
        self._writer = writer
        self._partitions = sorted(partition for _, partition in end_offsets(broker, [topics.TICKS]))
        self._seq = 0

    def high_watermarks(self) -> HighWatermarks:
        """Return the ends of the logs of the event topics, as the broker has them now."""
        return self._inputs.ends()

    def tick(self, now_ts: int, high: HighWatermarks | None = None) -> None:
        """Flush, then queue a tick for every partition that says what time it is and how far the inputs reach.

        Args:
            now_ts: Simulated time; the caller never moves it back.
            high: Ends of the logs, read after the last flush, when the caller has them already.

        Raises:
            BusError: If a record queued before was not acknowledged.
        """
        if high is None:
            self._producer.flush()
            high = self.high_watermarks()
        tails = self._tails.find(high, self._producer.ends)
        self._seq += 1
        for partition in self._partitions:
            pairs = [(topic, partition) for topic in topics.EVENT_TOPICS]
            tick = Tick(
                partition=partition,
                seq=self._seq,
                worker=self._writer,
                hw={pair[0]: high[pair] for pair in pairs if pair in high},
                tail={pair[0]: tails[pair] for pair in pairs if pair in tails},
                now_ts=now_ts,
            )
            self._producer.send(
                topics.TICKS, key=str(partition).encode(), value=encode(tick), partition=partition, timestamp_ms=now_ts
            )

    def close(self) -> None:
        """Close the connections that ask for offsets; the producer is the caller's."""
        self._inputs.close()
        self._tails.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
