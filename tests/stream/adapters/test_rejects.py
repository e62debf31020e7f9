"""Dead letters of rejected payloads: events of unmapped kinds are counted, not stored."""

import json
from collections.abc import Iterable

from stream.adapters import Options, adapt
from stream.adapters.rejects import kept
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
    assert (done.num_payloads, done.num_dead_letters, len(letters)) == (4, 1, 1)
    assert [(payload.number, reason) for payload, reason, _ in done.first_rejects] == [(4, "missing_field")]


def test_unmapped_kinds_are_stored_for_debugging() -> None:
    done, letters = ingested([PAGE, FAULTY], Options(keep_unmapped=True))
    assert done.unmapped == {"page": 1}
    assert (done.num_dead_letters, len(letters)) == (2, 2)


def test_of_a_batch_only_the_faulty_events_are_kept_without_keys_and_personal_data() -> None:
    faulty = {**FAULTY, "context": {"ip": "192.0.2.7", "page": {"url": "https://shop.example/?q=illness"}}}
    good = {**FAULTY, "messageId": "m-4", "timestamp": "2026-01-05T00:00:00Z", "properties": {"product_id": "lamp-3"}}
    batch = {"batch": [good, PAGE, faulty, {**faulty, "messageId": "m-5"}], "writeKey": "w-secret", "sentAt": "now"}
    _, rejected = adapt("segment", json.dumps(batch).encode())
    stored = kept(rejected, Options())
    assert [json.loads(one.raw)["messageId"] for one in stored] == ["m-3", "m-5"]
    assert [one.detail.split("`")[-2] for one in stored] == ["$.batch[2]", "$.batch[3]"]
    for one in stored:
        assert not any(text in one.raw for text in (b"w-secret", b"192.0.2.7", b"illness", b"lamp-3"))
        (again,) = adapt("segment", one.raw)[1]
        assert again.detail == one.raw_detail


def test_keys_are_removed_from_bytes_that_are_no_json() -> None:
    _, (reject,) = adapt("ga4", b'{"api_secret": "hidden", "events": [{"name": "select_item"')
    assert reject.reason == "not_json"
    assert reject.raw == b'{"api_secret": "", "events": [{"name": "select_item"'


def test_an_event_that_is_stored_alone_has_the_id_that_it_had_in_its_payload() -> None:
    row = {"event_name": "select_item", "event_timestamp": "1767571205000000", "user_pseudo_id": "c-1"}
    params = [{"key": "page_location", "value": {"string_value": "https://shop.example/?q=illness"}}]
    items = [{"item_id": "lamp-3"}]
    (whole,), _ = adapt("ga4", json.dumps({**row, "event_params": params, "items": items}).encode())
    (alone,), _ = adapt("ga4", json.dumps({**row, "event_params": [], "items": items}).encode())
    assert whole.record.event_id == alone.record.event_id
