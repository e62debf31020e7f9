"""Background threads that keep the catalogue and the profiles in memory up to date with their compacted topics.

Source: docs/serving.md, docs/stream.md.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from serving.metrics import Metrics
from stream.backoff import Backoff
from stream.broker.connection import is_reachable
from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError, ShelfwiseError
from stream.schemas.records import Record

STARTING: Final = "starting"
CURRENT: Final = "current"
UNAVAILABLE: Final = "unavailable"
_POLL_MS = 200
_EMPTY_POLLS = 10

_log = logging.getLogger(__name__)


class Replica(Protocol):
    """A compacted topic in memory."""

    positions: dict[tuple[str, int], int]
    num_rejected: int

    def apply(self, records: Sequence[Record], /) -> int:
        """Apply records in offset order and return how many were applied."""
        ...


class ReplicaUpdater:
    """Thread that applies the records of one topic to a replica.

    Attributes:
        state: `starting` until the records that were there at the start are applied, then `current`; `unavailable`
            while the broker is unreachable or none is configured.
    """

    def __init__(
        self, broker: Broker | None, topic: str, replica: Replica, metrics: Metrics, *, random: Callable[[], float]
    ) -> None:
        """Prepare the thread.

        Args:
            broker: The broker, or None.
            topic: The compacted topic.
            replica: The topic's records in memory.
            metrics: Metrics of the process.
            random: Uniform numbers in [0, 1), for the jitter of retries.
        """
        self._broker = broker
        self._topic = topic
        self._replica = replica
        self._records = metrics.replica_records.labels(topic)
        self._rejected = metrics.replica_rejected.labels(topic)
        self._backoff = Backoff(random=random)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"replica-{topic}", daemon=True)
        self.state = STARTING if broker is not None else UNAVAILABLE

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request_stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def join(self, timeout_s: float = 1.0) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._broker is not None and not self._stop.is_set():
            try:
                self._update(self._broker)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any fault, such as certificates in renewal
                wait_s = self._backoff.next_s()
                if self.state != UNAVAILABLE:
                    is_foreseen = isinstance(error, ShelfwiseError)
                    _log.warning(
                        "%s cannot be read, next try in %.1f s: %s",
                        self._topic,
                        wait_s,
                        error,
                        exc_info=not is_foreseen,
                    )
                self.state = UNAVAILABLE
                self._stop.wait(wait_s)

    def _update(self, broker: Broker) -> None:
        if not is_reachable(broker):
            raise BusError(f"broker {broker.bootstrap} does not answer")
        begin = beginning_offsets(broker, [self._topic])
        end = end_offsets(broker, [self._topic])
        # Records before the beginning of the log were compacted away; newer records of their keys lie ahead.
        positions = {pair: max(self._replica.positions.get(pair, 0), offset) for pair, offset in begin.items()}
        behind = {pair for pair, offset in positions.items() if offset < end[pair]}
        num_empty = 0
        with Reader(broker, positions) as reader:
            while not self._stop.is_set():
                # Compaction may have removed the last records, so repeated empty polls count as the end, too.
                if not behind or num_empty >= _EMPTY_POLLS:
                    self.state = CURRENT
                    self._backoff.reset()
                records = reader.poll(_POLL_MS)
                num_empty = 0 if records else num_empty + 1
                if records:
                    num_rejected = self._replica.num_rejected
                    self._records.inc(self._replica.apply(records))
                    self._rejected.inc(self._replica.num_rejected - num_rejected)
                    behind = {pair for pair in behind if self._replica.positions.get(pair, 0) < end[pair]}
