"""The recount finds each outcome from the topics alone, and notices what is lost."""

from hypothesis import given
from hypothesis import strategies as st

from stream.operations.recount import recount
from stream.schemas import topics
from tests.laws.join_log import SETTINGS, START_TS, Event, Log, Run, Sent, click, impression, purchase, run, send


def _example() -> tuple[Log, Run]:
    happened: list[Event] = [
        impression(1),
        click(1, 1, "item-1", at_s=5),
        click(1, 1, "item-1", at_s=5),
        click(2, 7, "item-1", at_s=5),
        purchase(1, 1, ["item-1", "item-5"], at_s=10),
        impression(2, at_s=20),
        click(3, 2, "item-1", at_s=2_000),
    ]
    poison = Sent(topics.CLICKS, "x", b"poison", START_TS)
    log = Log.of([*(send(event) for event in happened), poison])
    return log, run(log)


def test_counts_by_outcome() -> None:
    log, result = _example()
    counted = recount([*log.events(), *result.outputs.records], SETTINGS)
    assert (counted.produced, counted.joined, counted.duplicate) == (9, 4, 1)
    assert (counted.late, counted.orphan, counted.dead) == (1, 2, 1)
    assert counted.reasons == {"no_impression": 1, "not_in_list": 1, "too_late": 1, "not_json": 1}
    assert counted.sources == {"no_impression of test": 1, "not_in_list of test": 1, "too_late of test": 1}
    assert counted.is_closed
    assert counted.open == counted.lost == 0
    assert dict(counted.rows) == {
        "produced": 9,
        "joined": 4,
        "duplicate": 1,
        "late": 1,
        "orphan": 2,
        "dead": 1,
        "open": 0,
        "lost": 0,
        **counted.reasons,
        **counted.sources,
    }


def test_order_lines_in_another_currency_are_named() -> None:
    happened: list[Event] = [
        impression(1, currency="EUR"),
        impression(2, currency="XXX", at_s=1),
        click(1, 2, "item-1", at_s=5),
        purchase(1, 1, ["item-1", "item-2"], at_s=10, currency="USD"),
        purchase(2, 2, ["item-1"], at_s=2_000, currency="CHF"),
        purchase(3, 2, ["item-2"], at_s=1_000, currency="EUR"),
        purchase(4, 2, ["item-2"], at_s=1_001, currency="XXX"),
    ]
    log = Log.of(send(event) for event in happened)
    counted = recount([*log.events(), *run(log).outputs.records], SETTINGS)
    assert counted.currencies == {
        "order line in USD, session in EUR": 2,
        "order line in CHF, session in EUR": 1,
    }


def test_records_written_twice_count_once() -> None:
    log, result = _example()
    records = [*log.events(), *result.outputs.records]
    assert recount(records + records, SETTINGS) == recount(records, SETTINGS)


@given(st.data(), st.sampled_from([0, 4_000]))
def test_neither_order_nor_little_memory_changes_the_counts(data: st.DataObject, memory_bytes: int) -> None:
    log, result = _example()
    records = [*log.events(), *result.outputs.records]
    shuffled = data.draw(st.permutations(records))
    assert recount(shuffled, SETTINGS, memory_bytes=memory_bytes) == recount(records, SETTINGS)


def test_a_missing_letter_is_a_loss() -> None:
    log, result = _example()
    kept = [record for record in result.outputs.records if record.topic != topics.UNJOINED]
    counted = recount([*log.events(), *kept], SETTINGS)
    assert counted.lost == 3
    assert not counted.is_closed


def test_events_whose_windows_are_not_over_are_open() -> None:
    log = Log.of([send(impression(1))])
    counted = recount(log.events(), SETTINGS)
    assert (counted.produced, counted.open, counted.lost) == (1, 1, 0)
    assert counted.is_closed
