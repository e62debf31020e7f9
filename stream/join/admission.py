"""Admission of decoded events: records that must not change the state are refused before they touch it."""

from stream.broker.partitioner import partition_of
from stream.errors import SchemaError
from stream.join.outcome_counters import OutcomeCounters
from stream.join.settings import JoinSettings
from stream.join.watermark import Watermark
from stream.schemas.events import Click, Conversion, Impression
from stream.schemas.records import Record

_MAX_KNOWN_KEYS = 200_000


class ClientLoad:
    """The number of open events of each client: open queries, their labels, and waiting events."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def num_events(self, client_id: str) -> int:
        """Return the number of open events of a client."""
        return self._counts.get(client_id, 0)

    def add(self, client_id: str, num_events: int) -> None:
        """Add a number of open events, or take one away."""
        total = self._counts.get(client_id, 0) + num_events
        if total > 0:
            self._counts[client_id] = total
        else:
            self._counts.pop(client_id, None)


class Admission:
    """Checks of the key, the time and the client load of events."""

    def __init__(
        self,
        partition: int,
        num_partitions: int,
        settings: JoinSettings,
        *,
        load: ClientLoad,
        watermark: Watermark,
        counters: OutcomeCounters,
    ) -> None:
        self._partition = partition
        self._num_partitions = num_partitions
        self._max_client_events = settings.max_client_events
        self._max_ahead_ms = settings.future_dead_s * 1_000
        self._driver_ticks = settings.ticks == "driver"
        self._load = load
        self._watermark = watermark
        self._counters = counters
        self._known_keys: dict[str, bytes] = {}

    def admit(self, record: Record, event: Impression | Click | Conversion) -> None:
        """Note the time of an event that may change the state.

        Raises:
            SchemaError: If it may not: `misrouted`, `future_ts` or `hot_key`.
        """
        client_id, key = event.client_id, record.key
        if key is None or self._known_keys.get(client_id) != key:
            self._check_key(client_id, key)
        # Live, the broker's stamp is the reference: unlike `now` it does not depend on the ticks read so far.
        reference_ts = self._watermark.now_ts if self._driver_ticks else record.timestamp
        if reference_ts and event.event_ts > reference_ts + self._max_ahead_ms:
            raise SchemaError("future_ts", f"event_ts {event.event_ts} is too far past {reference_ts}")
        if self._load.num_events(client_id) >= self._max_client_events:
            raise SchemaError("hot_key", f"the client holds {self._load.num_events(client_id)} open events")
        if self._watermark.observe(record.topic, event.event_ts):
            self._counters["clamped"] += 1
        self._counters[record.topic] += 1

    def _check_key(self, client_id: str, key: bytes | None) -> None:
        encoded = client_id.encode()
        if key != encoded:
            raise SchemaError("misrouted", f"key {key!r:.80} is not the client_id")
        home = partition_of(encoded, self._num_partitions)
        if home != self._partition:
            raise SchemaError("misrouted", f"partition {self._partition}, murmur2 says {home}")
        if len(self._known_keys) >= _MAX_KNOWN_KEYS:
            self._known_keys.clear()
        self._known_keys[client_id] = encoded
