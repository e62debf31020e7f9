"""Lists in parts: one list of all parts, in any order of arrival, with copies, crashes and late parts."""

import dataclasses
from itertools import permutations

import msgspec
import pytest
from msgspec.structs import replace

from stream.errors import SchemaError
from stream.join import list_parts, sessions
from stream.join.rows import ImpressionRow
from stream.operations.export import newest
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import topics
from stream.schemas.events import MAX_ITEMS, Features, History, Impression
from tests.laws.join_log import (
    PARTITION,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Run,
    click,
    impression,
    part,
    purchase,
    run,
    run_with_crashes,
    send,
)
from tests.stream.join.runs import WINDOW_S, last_session, reasons, run_events

FIRST = part(1, "a", {1: "item-0", 2: "item-1"})
SECOND = part(1, "b", {3: "item-2", 4: "item-0"}, at_s=20)
THIRD = part(1, "c", {5: "item-3"}, at_s=40)


def checked(result: Run, log: Log) -> Run:
    """Return a run whose oracle and recount agree with it."""
    records = [*log.events(), *result.outputs.records]
    assert verify(records, SETTINGS).is_equal
    counted = recount(records, SETTINGS)
    assert counted.is_closed
    assert {name: getattr(counted, name) for name in result.outcomes} == result.outcomes
    return result


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_parts_make_one_list_in_any_order_of_arrival(order: tuple[int, ...]) -> None:
    parts = [FIRST, SECOND, THIRD]
    sent = [send(parts[which], 45_000 + at - parts[which].event_ts + START_TS) for at, which in enumerate(order)]
    log = Log.of([*sent, send(click(1, 1, "item-3", at_s=41), 5_000)])
    result = checked(run(log), log)
    found = last_session(result)
    assert found.item_id == ["item-0", "item-1", "item-2", "item-0", "item-3"]
    assert found.column("position").tolist() == [1, 2, 3, 4, 5]
    assert found.column("rank_in").tolist() == [1, 2, 3, 4, 5]
    assert found.column("price_minor").tolist() == [100, 200, 300, 100, 400]
    assert found.column("clicks").tolist() == [0, 0, 0, 0, 1]
    assert found.column("click_delay_ms").tolist() == [-1, -1, -1, -1, 41_000]
    assert (found.impression_ts, found.src) == (START_TS, (PARTITION, order.index(0)))
    assert found.close_ts == THIRD.event_ts + WINDOW_S * 1_000
    assert [each.event_id for each in found.parts] == ["i1-a", "i1-b", "i1-c"]
    assert result.outcomes == {"produced": 4, "joined": 4, "duplicate": 0, "late": 0, "orphan": 0, "dead": 0}


@pytest.mark.no_cover
@pytest.mark.parametrize("crashes", [[1], [2], [3], [2, 1], [4, 4]])
@pytest.mark.parametrize("seed", range(8))
def test_a_part_after_a_crash(crashes: list[int], seed: int) -> None:
    events: list[Event] = [
        FIRST,
        SECOND,
        THIRD,
        THIRD,
        click(1, 1, "item-3", at_s=41),
        click(2, None, "item-2", at_s=50),
    ]
    log = Log.of(send(event, 50_000 - event.event_ts + START_TS) for event in events)
    calm, killed = run(log, seed=seed), checked(run_with_crashes(log, crashes, seed=seed), log)
    assert killed.outputs.final() == calm.outputs.final()
    assert killed.outcomes == calm.outcomes
    assert killed.outcomes["joined"] == 5
    assert killed.tables.hot == {}


def test_a_copy_of_a_part_is_a_duplicate() -> None:
    result = run_events([FIRST, SECOND, FIRST, SECOND])
    assert result.outcomes == {"produced": 4, "joined": 2, "duplicate": 2, "late": 0, "orphan": 0, "dead": 0}


@pytest.mark.parametrize("clicks", [[], [click(1, 1, "item-0", at_s=5)]])
def test_after_the_close_a_copy_is_a_duplicate_and_a_new_part_is_late(clicks: list[Event]) -> None:
    """Both of a list with a label and of one without."""
    after_ms = (2 * WINDOW_S + 300) * 1_000
    # Other lists keep the watermark going.
    moves = [send(impression(2 + step, at_s=WINDOW_S + 200 + 100 * step)) for step in range(12)]
    sent = [send(event) for event in [FIRST, SECOND, *clicks]] + moves[:1]
    log = Log.of([*sent, *moves[1:], send(SECOND, after_ms), send(THIRD, after_ms)])
    result = checked(run(log), log)
    assert reasons(result) == ["too_late"]
    assert last_session(result).item_id == ["item-0", "item-1", "item-2", "item-0"]
    assert len([found for found in result.outputs.sessions() if found.query_id == "q1" and found.revision == 0]) == 1
    assert result.outcomes["duplicate"] == 1


@pytest.mark.parametrize("clicks", [[], [click(1, 1, "item-0", at_s=5)]])
@pytest.mark.parametrize("warm_max_bytes", [SETTINGS.warm_max_bytes, 0])
def test_a_whole_list_after_the_close_of_its_parts_is_late(clicks: list[Event], warm_max_bytes: int) -> None:
    """No session shows it: neither one with labels, nor one without, nor one that was dropped for space."""
    moves = [send(impression(2 + step, at_s=WINDOW_S + 200 + 100 * step)) for step in range(12)]
    sent = [send(event) for event in [FIRST, SECOND, *clicks]] + moves
    whole = impression(1)
    log = Log.of([*sent, send(whole, (2 * WINDOW_S + 300) * 1_000), send(whole, (2 * WINDOW_S + 301) * 1_000)])
    result = run(log, settings=dataclasses.replace(SETTINGS, warm_max_bytes=warm_max_bytes))
    counted = recount([*log.events(), *result.outputs.records], SETTINGS)
    assert {name: getattr(counted, name) for name in result.outcomes} == result.outcomes
    assert reasons(result) == ["too_late", "too_late"]


@pytest.mark.parametrize("clicks", [[], [click(1, 1, "item-0", at_s=5)]])
@pytest.mark.parametrize("crashes", [[], [1], [2], [3], [4, 4]])
@pytest.mark.parametrize("seed", range(4))
def test_a_whole_list_after_its_first_part_joins_once(clicks: list[Event], crashes: list[int], seed: int) -> None:
    moves = [send(impression(2 + step, at_s=WINDOW_S + 200 + 100 * step)) for step in range(12)]
    events = [FIRST, impression(1, items=FIRST.items.object_id, at_s=1), SECOND, *clicks]
    copy = send(events[1], (2 * WINDOW_S + 300) * 1_000)
    log = Log.of([*(send(event) for event in events), *moves, copy])
    result = checked(run_with_crashes(log, crashes, seed=seed) if crashes else run(log, seed=seed), log)
    found = newest(result.outputs.sessions())["q1"]
    assert [(part.event_id, part.is_whole) for part in found.parts] == [("i1-a", False), ("i1", True), ("i1-b", False)]
    assert (result.outcomes["joined"], result.outcomes["duplicate"]) == (15 + len(clicks), 1)


def test_a_part_past_the_window_of_the_first_one_is_late() -> None:
    far = part(1, "d", {9: "item-4"}, at_s=WINDOW_S)
    near = part(1, "e", {8: "item-5"}, at_s=WINDOW_S - 1)
    result = run_events([FIRST, far, near])
    assert reasons(result) == ["too_late"]
    assert last_session(result).item_id == ["item-0", "item-1", "item-5"]


def test_parts_may_overlap_where_they_agree() -> None:
    result = run_events([FIRST, part(1, "b", {2: "item-1", 3: "item-2"}, at_s=1)])
    assert last_session(result).item_id == ["item-0", "item-1", "item-2"]
    assert result.outcomes["joined"] == 2


def test_a_whole_list_and_a_part_that_goes_on() -> None:
    result = run_events([impression(1), part(1, "b", {4: "item-4"}, at_s=1), click(1, 1, "item-4", at_s=2)])
    assert last_session(result).column("clicks").tolist() == [0, 0, 0, 1]
    assert result.outcomes["joined"] == 3


def test_a_part_that_contradicts_is_a_dead_letter() -> None:
    result = run_events([FIRST, part(1, "b", {2: "item-4"}, at_s=1)])
    assert reasons(result, topics.DEAD_LETTERS) == ["conflicting_impression"]
    (letter,) = [record for record in result.outputs.records if record.topic == topics.DEAD_LETTERS]
    detail = dict(letter.headers)["detail"].decode()
    assert detail == "query q1 shows 'item-1' at position 2, not 'item-4'"


def test_the_parts_of_a_list_have_a_limit() -> None:
    known = {position: f"item-{position}" for position in range(1, MAX_ITEMS + 1)}
    list_parts.check_agreement("q1", known, {MAX_ITEMS: f"item-{MAX_ITEMS}"})
    with pytest.raises(SchemaError) as caught:
        list_parts.check_agreement("q1", known, {MAX_ITEMS + 1: "more"})
    assert caught.value.reason == "bad_value"
    assert caught.value.detail == f"items: {MAX_ITEMS + 1} in the parts of query q1, expected at most {MAX_ITEMS}"


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("kind", ["click", "purchase"])
@pytest.mark.parametrize("delay_ms", [0, 400_000])
def test_a_copy_that_is_too_early_for_its_list_is_an_orphan(kind: str, delay_ms: int, *, in_parts: bool) -> None:
    """The copy has its outcome before the list is read, or afterwards."""
    early, late = (
        click(1, 1, "item-0", at_s=at_s) if kind == "click" else purchase(1, 1, ["item-0"], at_s=at_s)
        for at_s in (0, 107)
    )
    shown: list[Event] = [impression(1, at_s=400)]
    if in_parts:
        shown = [part(1, "a", {2: "item-1"}, at_s=5), part(1, "b", {1: "item-0"}, at_s=400)]
    log = Log.of([*(send(event) for event in shown), send(late), send(early, delay_ms)])
    result = checked(run(log), log)
    (evidence,) = last_session(result).events
    assert evidence.event_ts == late.event_ts
    assert reasons(result) == ["not_in_list" if in_parts else "no_impression"]
    assert (result.outcomes["joined"], result.outcomes["orphan"]) == (1 + len(shown), 1)


def test_a_click_waits_for_the_part_that_shows_its_item() -> None:
    late = send(SECOND, 30_000)
    result = run(Log.of([send(FIRST), send(click(1, 1, "item-2", at_s=21)), late]))
    assert last_session(result).column("clicks").tolist() == [0, 0, 1, 0]
    orphan = run_events([FIRST, click(1, 1, "item-5", at_s=21)])
    assert reasons(orphan) == ["not_in_list"]


def test_a_click_on_a_repeated_product_is_placed_among_all_parts() -> None:
    """The click arrives when only the second part is known."""
    sent = [send(SECOND), send(click(1, 1, "item-0", at_s=25, position=1)), send(click(2, 1, "item-0", at_s=26))]
    order = purchase(1, 1, ["item-0"], at_s=27)
    log = Log.of([*sent, send(order), send(FIRST, 55_000)])
    found = last_session(checked(run(log), log))
    assert found.column("clicks").tolist() == [2, 0, 0, 0]
    assert found.column("orders").tolist() == [1, 0, 0, 0]


def rows_of(*parts: Impression) -> list[ImpressionRow]:
    return [
        ImpressionRow(offset, each.event_id, sessions.list_payload(each, PARTITION, offset))
        for offset, each in enumerate(parts)
    ]


def _with_features(each: Impression, schema: str) -> Impression:
    n = len(each.items.object_id)
    rows = b"".join(bytes([at, 0, at, 1]) for at in each.items.position or [])
    history = History(object_id=["z"], action=["click"], age_s=[n], category=[""])
    features = Features(schema=schema, item_f16=rows, context_f16=bytes([n, 0]), history=history)
    return replace(each, features=features, items=replace(each.items, score=[0.5] * n))


def test_features_stay_if_each_part_has_them_in_one_schema() -> None:
    first, second = _with_features(FIRST, "ab" * 32), _with_features(THIRD, "ab" * 32)
    for parts in ([first, second], [second, first]):
        found = msgspec.msgpack.decode(list_parts.merged(rows_of(*parts)))
        assert found["item_f16"] == bytes([1, 0, 1, 1, 2, 0, 2, 1, 5, 0, 5, 1])
        assert found["context_f16"] == bytes([2, 0])
        assert found["n"] == 3
    for other in (THIRD, _with_features(THIRD, "cd" * 32)):
        found = msgspec.msgpack.decode(list_parts.merged(rows_of(first, other)))
        assert (found["item_f16"], found["feature_schema"], found["hist_item"]) == (b"", b"", [])


def test_types_and_optional_columns_of_parts() -> None:
    first = replace(FIRST, items=replace(FIRST.items, type=["card", "video"], score=[0.25, 0.5]))
    found = msgspec.msgpack.decode(list_parts.merged(rows_of(first, THIRD)))
    assert found["item_type"] == ["card", "video", "product"]
    assert found["score"] == b""


def test_parts_after_a_time_do_not_count() -> None:
    found = sessions.list_view(list_parts.merged(rows_of(THIRD, SECOND, FIRST), SECOND.event_ts))
    assert found.item_id == ["item-0", "item-1", "item-2", "item-0"]
    assert (found.place("item-0"), found.place("item-0", 4), found.place("item-0", 2)) == (0, 3, 0)
    assert (found.product(3), found.price(3), found.product(9), found.price(9)) == ("item-0", 100, None, 0)
