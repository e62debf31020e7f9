"""Dead letters of rejected payloads: events of unmapped kinds are counted, not stored."""

import json
from collections.abc import Iterable

from stream.adapters import Options
from stream.operations.event_files import Payload
from stream.operations.ingest import Ingested, ingest
from stream.schemas import topics

PAGE = {"type": "page", "anonymousId": "a-1", "messageId": "m-1", "properties": {"search": "?q=secret+illness"}}
IDENTIFY = {"type": "identify", "anonymousId": "a-1", "messageId": "m-2", "traits": {"email": "jane@example.org"}}
FAULTY = {"type": "track", "event": "Product Clicked", "anonymousId": "a-1", "messageId": "m-3", "properties": {}}


class Sent:
    """A producer that keeps what was sent."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []

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
        assert topic == topics.DEAD_LETTERS
        self.letters.append(value or b"")

    def flush(self, timeout_s: float = 30.0) -> None:
        """Everything is acknowledged."""


def ingested(events: list[object], options: Options) -> tuple[Ingested, list[bytes]]:
    sent = Sent()
    payloads = [
        Payload(file="events", number=number, raw=json.dumps(event).encode())
        for number, event in enumerate(events, start=1)
    ]
    return ingest(sent, "segment", payloads, options=options, now_ms=lambda: 0), sent.letters


def test_unmapped_kinds_are_counted_by_kind_and_not_stored() -> None:
    done, letters = ingested([PAGE, IDENTIFY, PAGE, FAULTY], Options())
    assert done.unmapped == {"page": 2, "identify": 1}
    assert done.reasons == {"unmapped": 3, "missing_field": 1}
    assert (done.num_payloads, done.num_letters, len(letters)) == (4, 1, 1)
    assert [(payload.number, reason) for payload, reason, _ in done.first_rejects] == [(4, "missing_field")]


def test_unmapped_kinds_are_stored_for_debugging() -> None:
    done, letters = ingested([PAGE, FAULTY], Options(keep_unmapped=True))
    assert done.unmapped == {"page": 1}
    assert (done.num_letters, len(letters)) == (2, 2)
