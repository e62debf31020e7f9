"""The oracle agrees with an honest log and names every kind of difference."""

from dataclasses import replace

from stream.operations.verify import verify
from stream.schemas import session, topics
from stream.schemas.session import Session
from tests.laws.join_log import (
    SETTINGS,
    START_TS,
    Event,
    Log,
    Stored,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
    send,
)


def _records() -> list[Stored]:
    order = purchase(1, None, ["item-1"], at_s=400)
    happened: list[Event] = [
        impression(1),
        click(1, 1, "item-1", at_s=5),
        click(2, None, "item-2", at_s=10),
        order,
        reversal(order, 1, after_s=2_000),
        impression(2, at_s=20),
        click(3, 2, "item-1", at_s=2_000),
        impression(3, at_s=5_000),
    ]
    log = Log.of(send(event) for event in happened)
    return [*log.events(), *run(log).outputs.records]


def _change(records: list[Stored], query: str, **changes: object) -> list[Stored]:
    changed = []
    for record in records:
        content = session.decode(record.value or b"") if record.topic == topics.SESSIONS else None
        if isinstance(content, Session) and content.query_id == query:
            for name, value in changes.items():
                setattr(content, name, value)
            record = replace(record, value=session.encode(content))  # noqa: PLW2901
        changed.append(record)
    return changed


def test_an_honest_log_is_equal() -> None:
    verdict = verify(_records(), SETTINGS)
    assert verdict.is_equal, verdict
    assert (verdict.expected, verdict.emitted, verdict.misplaced_orphans) == (3, 3, 0)
    assert verdict.late_arrivals == 0, "the click on the second list is late by its own time"


def test_an_event_in_time_that_arrived_too_late() -> None:
    happened = [send(impression(1)), send(click(1, 1, "item-1", at_s=5), 1_200_000)]
    log = Log.of(happened)
    verdict = verify([*log.events(), *run_in_order(log).outputs.records], SETTINGS)
    assert verdict.is_equal, verdict
    assert verdict.late_arrivals == 1


def test_a_range_of_time_is_compared_alone() -> None:
    verdict = verify(_records(), SETTINGS, from_ts=START_TS + 1_000, to_ts=START_TS + 5_000_000)
    assert (verdict.expected, verdict.emitted) == (1, 1)


def test_a_session_that_is_missing() -> None:
    records = [r for r in _change(_records(), "q1", query_id="gone") if r.topic != topics.PROFILES]
    verdict = verify(records, SETTINGS)
    assert (verdict.missing, verdict.extra) == (1, 1)
    assert verdict.examples == ("gone", "q1")
    assert not verdict.is_equal


def test_a_label_that_differs() -> None:
    verdict = verify(_change(_records(), "q1", carts=bytes([1, 0, 0, 0, 0, 0])), SETTINGS)
    assert (verdict.differing, verdict.examples) == (1, ("q1",))


def test_evidence_that_differs() -> None:
    verdict = verify(_change(_records(), "q1", events=[]), SETTINGS)
    assert verdict.differing == 1


def test_an_orphan_that_should_have_joined() -> None:
    records = _records()
    letter = next(record for record in records if record.topic == topics.UNJOINED)
    joined = next(record for record in records if record.topic == topics.CLICKS)
    headers = dict(letter.headers) | {"reason": b"no_impression", "offset": str(joined.offset).encode()}
    verdict = verify([*records, replace(letter, headers=list(headers.items()))], SETTINGS)
    assert verdict.misplaced_orphans == 3, "the click, and the order and the refund that hang on it"
    assert verdict.differing == 1, "the session shows a click that is said not to have joined"
