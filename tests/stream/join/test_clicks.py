"""Clicks: the list that each one joins, or the reason why it joins none."""

from dataclasses import replace

import pytest

from stream.schemas import topics
from tests.laws.join_log import (
    CLIENTS,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Outputs,
    Tables,
    click,
    impression,
    purchase,
    send,
)
from tests.stream.join.runs import WINDOW_S, last_session, reasons, run_events


def test_a_first_click_after_the_window_is_too_late() -> None:
    result = run_events([impression(1), click(1, 1, "item-1", at_s=WINDOW_S)])
    assert reasons(result) == ["too_late"]
    assert result.outcomes["late"] == 1
    assert last_session(result).column("clicks").tolist() == [0, 0, 0]


def test_the_last_millisecond_of_the_window_counts() -> None:
    result = run_events([impression(1), click(1, 1, "item-1", at_s=WINDOW_S - 1, at_ms=999)])
    assert result.outcomes["joined"] == 2


@pytest.mark.parametrize(("past_ms", "expected"), [(-1, []), (1, ["too_late"])])
def test_arrival_around_the_close_decides(past_ms: int, expected: list[str]) -> None:
    """The watermark is 1 ms before, and 1 ms past, the close of the list when the click arrives (S10)."""
    close_ts = START_TS + WINDOW_S * 1_000 + SETTINGS.clock_tolerance_ms
    edge_ts = close_ts + SETTINGS.lateness_s * 1_000 + past_ms
    other = CLIENTS[1]
    log, join, outputs = Log(), Tables().join(), Outputs()
    log.tick(edge_ts, 0)
    mover = impression(2, client=other)
    mover.event_ts = edge_ts
    pusher = click(2, 2, "item-1", client=other)
    pusher.event_ts = edge_ts
    late = click(1, 1, "item-1", at_s=100)
    for event in (impression(1), mover, pusher, late):
        sent = send(event)
        log.append(sent.topic, event.client_id.encode(), sent.value, edge_ts)
    clicks = log.records[topics.CLICKS]
    for piece in (log.records[topics.TICKS], log.records[topics.IMPRESSIONS], clicks[:1]):
        outputs.take(join.apply(piece))
    assert join.watermark_ts == close_ts + past_ms
    outputs.take(join.apply(clicks[1:]))
    for seq, later_ts in enumerate((100_000, 2_000_000, 2_100_000), start=1):
        log.tick(edge_ts + later_ts, seq)
        outputs.take(join.apply(log.records[topics.TICKS][-1:]))
    assert [reason for reason, _ in outputs.dead_letters(topics.UNJOINED)] == expected
    assert join.counters["joined"] + join.counters.get("late", 0) == join.counters["produced"]


@pytest.mark.parametrize(
    ("position", "expected", "differs"),
    [
        (1, [1, 0, 0, 0], 0),
        (4, [0, 0, 0, 1], 0),
        (3, [0, 0, 0, 1], 1),
        (2, [1, 0, 0, 0], 1),
        (90, [0, 0, 0, 1], 1),
        (None, [1, 0, 0, 0], 0),
    ],
)
@pytest.mark.parametrize("query", [1, None])
def test_the_position_decides_between_equal_products(
    position: int | None, expected: list[int], differs: int, query: int | None
) -> None:
    shown = impression(1, items=["item-0", "item-1", "item-2", "item-0"])
    result = run_events([shown, click(1, query, "item-0", at_s=5, position=position)])
    assert last_session(result).column("clicks").tolist() == expected
    assert result.join.counters["position_differs"] == differs


@pytest.mark.parametrize(
    ("reason", "happened"),
    [
        ("no_impression", [click(1, 7, "item-1")]),
        ("not_in_list", [impression(1), click(1, 1, "item-5", at_s=5)]),
        ("no_link", [impression(1), click(1, None, "item-5", at_s=5)]),
        ("no_link", [impression(1), click(1, 1, "item-1", client=CLIENTS[1], at_s=5)]),
        (
            "too_late",
            [impression(1), click(1, 1, "item-1", at_s=5), click(2, 1, "item-1", at_s=SETTINGS.attribution_s + 1)],
        ),
        (
            "not_in_list",
            [impression(1), click(1, 1, "item-1", at_s=5), click(2, 1, "item-5", at_s=WINDOW_S + 5)],
        ),
        (
            "no_link",
            [
                impression(1),
                click(1, 1, "item-1", at_s=5),
                click(2, 1, "item-1", client=CLIENTS[1], at_s=WINDOW_S + 5),
            ],
        ),
    ],
)
def test_a_click_that_joins_no_list_has_a_reason(reason: str, happened: list[Event]) -> None:
    result = run_events(happened)
    assert reasons(result) == [reason]
    outcomes = result.outcomes
    assert outcomes["produced"] == sum(outcomes[name] for name in ("joined", "late", "orphan"))


def test_a_click_without_query_joins_the_newest_open_list_with_the_item() -> None:
    happened: list[Event] = [
        impression(1, items=["item-1"]),
        impression(2, at_s=10, items=["item-1", "item-2"]),
        impression(3, at_s=20, items=["item-3"]),
        click(1, None, "item-1", at_s=30),
    ]
    result = run_events(happened)
    assert [event.link for event in last_session(result, "q2").events] == ["inferred"]
    assert result.outcomes["joined"] == 4
    strict = replace(SETTINGS, infer_links=False)
    assert reasons(run_events(happened, strict)) == ["no_link"]


def test_a_list_with_too_many_events_takes_no_more() -> None:
    capped = replace(SETTINGS, max_list_events=3)
    clicks: list[Event] = [click(number, 1, "item-1", at_s=number) for number in range(5)]
    result = run_events([impression(1), *clicks, purchase(1, 1, ["item-1"], at_s=9)], capped)
    assert reasons(result, topics.UNJOINED) == ["evicted"] * 3
    assert result.outcomes == {"produced": 7, "joined": 4, "duplicate": 0, "late": 3, "orphan": 0, "dead": 0}


@pytest.mark.parametrize("at_s", [6, WINDOW_S + 6])
def test_a_full_list_names_an_item_that_it_lacks_while_open_and_when_closed(at_s: int) -> None:
    capped = replace(SETTINGS, max_list_events=2)
    clicks: list[Event] = [click(number, 1, "item-1", at_s=number) for number in (1, 2)]
    late: list[Event] = [click(3, 1, "item-5", at_s=at_s), click(4, 1, "item-1", at_s=at_s)]
    result = run_events([impression(1), *clicks, *late], capped)
    assert sorted(reasons(result, topics.UNJOINED)) == ["evicted", "not_in_list"]


TOLERANCE_MS = SETTINGS.clock_tolerance_ms


@pytest.mark.parametrize(
    ("early_ms", "clicks"), [(1, [0, 1, 0]), (TOLERANCE_MS, [0, 1, 0]), (TOLERANCE_MS + 1, [0, 0, 0])]
)
def test_a_click_without_link_joins_a_list_up_to_the_tolerance_later(early_ms: int, clicks: list[int]) -> None:
    result = run_events([impression(1), click(1, None, "item-1", at_ms=-early_ms)])
    assert last_session(result).column("clicks").tolist() == clicks
    assert reasons(result) == ([] if any(clicks) else ["no_link"])


def test_a_list_shown_before_the_click_goes_first_and_then_the_nearest() -> None:
    happened: list[Event] = [
        impression(1),
        impression(2, at_s=100),
        impression(3, at_s=101),
        click(1, None, "item-1", at_s=99, at_ms=900),
        impression(4, at_s=2_000),
        impression(5, at_s=2_001),
        click(2, None, "item-1", at_s=1_999, at_ms=500),
    ]
    result = run_events(happened)
    by_query = {
        query: int(last_session(result, query).column("clicks").sum()) for query in ("q1", "q2", "q3", "q4", "q5")
    }
    assert by_query == {"q1": 1, "q2": 0, "q3": 0, "q4": 1, "q5": 0}


def test_a_click_without_link_in_the_last_millisecond_of_the_window_joins() -> None:
    result = run_events([impression(1), click(1, None, "item-1", at_s=WINDOW_S - 1, at_ms=999)])
    assert last_session(result).column("clicks").tolist() == [0, 1, 0]


def test_without_tolerance_no_list_after_the_click_counts() -> None:
    exact = replace(SETTINGS, clock_tolerance_s=0)
    assert reasons(run_events([impression(1), click(1, None, "item-1", at_ms=-1)], exact)) == ["no_link"]
