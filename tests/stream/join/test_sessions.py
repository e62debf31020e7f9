"""A session record assembled from payloads is the record of the schema."""

from pathlib import Path

import pytest

from stream.join import labels, sessions
from stream.join.labels import ClickLabel, OrderLineLabel
from stream.schemas import events, session

GOLDEN = Path(__file__).parent / "golden"


def _impression(**more: object) -> events.Impression:
    content = {
        "event_id": "e",
        "event_ts": 1_000,
        "client_id": "c",
        "source": "test",
        "query_id": "q",
        "query": events.Query(hash="h", category="shoes"),
        "currency": "EUR",
        "items": events.ShownItems(object_id=["a", "b"], rank_in=[2, 100_000], price_minor=[2**40, 7], score=[0.5, -1]),
        "assignment": [events.Assignment(layer="l", experiment="x", arm="a", epoch=3, bucket=9)],
        "lineage": "line",
        "version": "4",
        "triggered": True,
    }
    return events.Impression(**(content | more))  # type: ignore[arg-type]  # fields by name


def _built(impression: events.Impression, merged: labels.Labels | None) -> session.Session:
    value = sessions.build(
        sessions.list_payload(impression, 3, 14),
        merged,
        sessions.Header(revision=2, reason="click", close_ts=901_000, watermark_ts=950_000),
        n=2,
        impression_ts=1_000,
        partition=3,
        changed=[merged.clicks["k"]] if merged is not None else [],
    )
    found = session.decode(value)
    assert isinstance(found, session.Session)
    return found


def test_payloads_are_disjoint_and_together_all_fields_of_a_session() -> None:
    payloads = (sessions.ListPayload, sessions.LabelPayload, sessions.Header)
    names = [name for payload in payloads for name in payload.__struct_fields__]
    assert sorted(names) == sorted(session.Session.__struct_fields__)
    # The sizes of their maps decide how many bytes `build` cuts off.
    assert len(sessions.ListPayload.__struct_fields__) + 1 > 15
    assert all(len(payload.__struct_fields__) <= 15 for payload in payloads[1:])


def test_a_list_without_labels() -> None:
    found = _built(_impression(), None)
    assert (found.query_id, found.client_id, found.revision, found.reason) == ("q", "c", 2, "click")
    assert (found.impression_ts, found.close_ts, found.watermark_ts, found.src) == (1_000, 901_000, 950_000, (3, 14))
    assert (found.n, found.item_id, found.query_category) == (2, ["a", "b"], "shoes")
    assert found.column("rank_in").tolist() == [2, 65_535]
    assert found.column("price_minor").tolist() == [2**40, 7]
    assert found.column("score").tolist() == [0.5, -1]
    assert found.assignment == [session.AssignedArm("l", "x", 3, "a", 9)]
    assert found.column("clicks").tolist() == [0, 0]
    assert found.column("click_delay_ms").tolist() == [-1, -1]
    assert (found.changed, found.events, found.lines) == (b"", [], [])
    assert found.label_key == labels.label_key(labels.empty())


def test_types_sources_and_the_latency_travel_on() -> None:
    items = events.ShownItems(object_id=["a", "b"], rank_in=[1, 2], price_minor=[1, 2], type=["sponsored", "product"])
    merged = labels.empty()
    merged.merge(ClickLabel("k", "click", 1, 1_250, 1_300, 5, "query_id", "web"))
    found = _built(_impression(items=items, latency_us=8_400), merged)
    assert (found.source, found.latency_us, found.item_type) == ("test", 8_400, ["sponsored", "product"])
    assert [event.source for event in found.events] == ["web"]


@pytest.mark.parametrize("part", ["canary", "control", None])
def test_the_slice_travels_on(part: events.Slice | None) -> None:
    assert _built(_impression(slice=part), None).slice == part
    assert _built(_impression(), None).slice is None


def test_labels_replace_the_empty_columns() -> None:
    merged = labels.empty()
    merged.merge(ClickLabel("k", "click", 1, 1_250, 1_300, 5, "query_id"))
    found = _built(_impression(), merged)
    assert found.column("clicks").tolist() == [0, 1]
    assert found.column("click_delay_ms").tolist() == [-1, 250]
    assert found.column("changed").tolist() == [1]
    assert found.events == labels.evidence(merged, 3)
    assert found.label_key == labels.label_key(merged)


@pytest.mark.parametrize("num_items", [1, 24, 200])
def test_the_views_of_a_list_payload(num_items: int) -> None:
    items = events.ShownItems(
        object_id=[f"i{k}" for k in range(num_items)],
        rank_in=list(range(1, num_items + 1)),
        price_minor=[k * 1_000_003 for k in range(num_items)],
    )
    payload = sessions.list_payload(_impression(items=items), 0, 0)
    view, known = sessions.list_view(payload), sessions.list_key(payload)
    assert view.item_id == items.object_id
    assert [view.price(k) for k in range(num_items)] == items.price_minor
    assert (known.client_id, known.impression_ts, known.n) == ("c", 1_000, num_items)


def _golden_impression() -> events.Impression:
    features = events.Features(
        schema="ab" * 32,
        item_f16=bytes(range(8)),
        context_f16=b"\x00\x3c",
        history=events.History(
            object_id=["a", "z"],
            action=["view", "purchase"],
            age_s=[1, 2**32 - 1],
            category=["", "k"],
            pages=[["z", "a"], ["b"]],
        ),
    )
    items = events.ShownItems(
        object_id=["a", "b"], rank_in=[2, 100_000], price_minor=[2**40, 7], score=[0.5, -1], propensity=[0.25, 1.0]
    )
    return _impression(items=items, features=features, session_id="visit", user_id="u", fallback="timeout")


def _golden_labels() -> labels.Labels:
    merged = labels.empty()
    merged.merge(ClickLabel("k", "click", 1, 1_250, 1_300, 5, "query_id"))
    merged.merge(ClickLabel("l", "add_to_cart", 0, 1_200, 1_300, 6, "inferred"))
    merged.merge(OrderLineLabel("o", "t", "1", "", "purchase", 1, 3, 2**40, "EUR", 1_500, 1_600, 7, "last_click"))
    merged.merge(OrderLineLabel("r", "t", "1", "r", "refund", 1, 1, 400, "EUR", 1_700, 1_800, 8, "last_click"))
    return merged


@pytest.mark.parametrize(("name", "merged"), [("unlabelled", None), ("labelled", _golden_labels())])
def test_session_records_keep_their_bytes(name: str, merged: labels.Labels | None) -> None:
    """Workers of two releases read each other's list payloads, and sinks read records of both."""
    value = sessions.build(
        sessions.list_payload(_golden_impression(), 3, 14),
        merged,
        sessions.Header(revision=2, reason="click", close_ts=901_000, watermark_ts=950_000),
        n=2,
        impression_ts=1_000,
        partition=3,
        changed=[merged.clicks["k"]] if merged is not None else [],
    )
    assert value == (GOLDEN / f"{name}.msgpack").read_bytes()
