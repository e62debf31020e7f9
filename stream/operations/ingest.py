"""Send what other systems recorded to our topics: adapted lines as records, the others as dead letters.

Events of kinds that have no counterpart are counted by kind. Every other event has one of two ends, both acknowledged
by the broker. Repeating a file repeats ids and coordinates, so nothing counts twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from stream.adapters import Options, adapt
from stream.adapters.rejects import kept, letter
from stream.schemas import topics


class Sender(Protocol):
    """The part of `stream.broker.producer.Producer` that operations use."""

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
        """Queue one record."""
        ...

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all are acknowledged."""
        ...


@dataclass(slots=True, kw_only=True)
class Ingested:
    """Counts of the records and rejects of a file.

    Attributes:
        num_lines: Lines that were not empty.
        records: Records by topic.
        num_letters: Lines that went to `dead_letters`.
        reasons: Rejected events by reason code.
        unmapped: Events without a counterpart by the source's kind, such as `page_view`; not stored by default.
        first_rejects: Line number, reason and detail of the first events that become dead letters.
    """

    num_lines: int = 0
    records: Counter[str] = field(default_factory=Counter)
    num_letters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    first_rejects: list[tuple[int, str, str]] = field(default_factory=list)


def ingest(
    producer: Sender | None,
    name: str,
    lines: Iterable[bytes],
    *,
    options: Options,
    now_ms: Callable[[], int],
    max_shown: int = 20,
) -> Ingested:
    """Adapt each line of a format and send what comes out, and wait until all is acknowledged.

    Args:
        producer: Where to; None only counts.
        name: The format.
        lines: One payload each.
        options: What adapters need to know of the shop.
        now_ms: Epoch milliseconds, for dead letters.
        max_shown: How many rejects to name.

    Raises:
        BusError: If the broker did not acknowledge all of them.
    """
    done = Ingested()
    for number, line in enumerate(lines, start=1):
        raw = line.rstrip(b"\r\n")
        if not raw.strip():
            continue
        done.num_lines += 1
        adapted, rejected = adapt(name, raw, options)
        for record in adapted:
            done.records[record.topic] += 1
            if producer is not None:
                producer.send(record.topic, key=record.key, value=record.value)
        for reject in rejected:
            done.reasons[reject.reason] += 1
            if reject.kind:
                done.unmapped[reject.kind] += 1
        if stored := kept(rejected, options):
            shown = stored[: max_shown - len(done.first_rejects)]
            done.first_rejects += [(number, reject.reason, reject.detail) for reject in shown]
            done.num_letters += 1
            if producer is not None:
                key, value, headers = letter(name, stored, now_ms=now_ms(), key=adapted[0].key if adapted else None)
                producer.send(topics.DEAD_LETTERS, key=key, value=value, headers=[*headers, ("line", b"%d" % number)])
    if producer is not None:
        producer.flush()
    return done
