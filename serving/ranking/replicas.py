"""The catalogue and the profiles in memory, followed by one background thread each, never in the request path.

Source: TRAINING_SERVING.md 8.2, STREAM.md 4.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final, Protocol

from serving.metrics import Metrics
from stream.broker.admin import answers
from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas.records import Record

STARTING: Final = "starting"
CURRENT: Final = "current"
AWAY: Final = "away"
_POLL_MS = 200
_EMPTY_POLLS = 10
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0

_log = logging.getLogger(__name__)


class Replica(Protocol):
    """A compacted topic in memory."""

    positions: dict[tuple[str, int], int]

    def apply(self, records: Sequence[Record], /) -> int:
        """Apply records in offset order and return how many were applied."""
        ...


class Follower:
    """Keeps one replica current.

    Attributes:
        state: `starting` until the end seen at the start was reached, then `current`; `away` without a broker.
    """

    def __init__(self, broker: Broker | None, topic: str, replica: Replica, metrics: Metrics) -> None:
        self._broker = broker
        self._topic = topic
        self._replica = replica
        self._records = metrics.replica_records.labels(topic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic}", daemon=True)
        self.state = STARTING if broker is not None else AWAY

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
        backoff_s = _FIRST_BACKOFF_S
        while self._broker is not None and not self._stop.is_set():
            try:
                self._follow(self._broker)
                backoff_s = _FIRST_BACKOFF_S
            except BusError as error:
                if self.state != AWAY:
                    _log.warning("%s: not followed for now: %s", self._topic, error)
                self.state = AWAY
                self._stop.wait(backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    def _follow(self, broker: Broker) -> None:
        if not answers(broker):
            raise BusError(f"broker {broker.bootstrap} does not answer")
        begin = beginning_offsets(broker, [self._topic])
        end = end_offsets(broker, [self._topic])
        # A position before the log's beginning has been compacted away; what replaced it lies ahead.
        positions = {pair: max(self._replica.positions.get(pair, 0), offset) for pair, offset in begin.items()}
        behind = {pair for pair, offset in positions.items() if offset < end[pair]}
        num_empty = 0
        with Reader(broker, positions) as reader:
            while not self._stop.is_set():
                # Compaction may have taken the very last records, so silence counts as the end too.
                if not behind or num_empty >= _EMPTY_POLLS:
                    self.state = CURRENT
                records = reader.poll(_POLL_MS)
                num_empty = 0 if records else num_empty + 1
                if records:
                    self._records.inc(self._replica.apply(records))
                    behind = {pair for pair in behind if self._replica.positions.get(pair, 0) < end[pair]}
