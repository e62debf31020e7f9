"""Outcome counters: one outcome for each unit, and its reason."""

import pytest

from stream.join.labels import MergeResult
from stream.join.outcome_counters import MAX_SOURCES, OTHER_SOURCES, OutcomeCounters, reason_and_source
from stream.schemas import topics


@pytest.mark.parametrize(
    ("result", "counts"),
    [
        (MergeResult.ADDED, {"joined": 1}),
        (MergeResult.REPEATED, {"joined": 1}),
        (MergeResult.DUPLICATE, {"duplicate": 1}),
        (MergeResult.REPLACED, {"duplicate": 1, "conflicts": 1}),
    ],
)
def test_a_merge_counts_once(result: MergeResult, counts: dict[str, int]) -> None:
    counters = OutcomeCounters()
    assert counters.add_merge(result) is ("joined" in counts)
    assert counters == counts


def test_unjoined_clicks_are_also_counted_apart() -> None:
    counters = OutcomeCounters()
    counters.add_unjoined(topics.CLICKS, "too_late", "web")
    counters.add_unjoined(topics.CONVERSIONS, "no_click", "web")
    by_source = {"too_late of web": 1, "no_click of web": 1}
    assert counters == {"late": 1, "too_late": 1, "clicks_late": 1, "orphan": 1, "no_click": 1} | by_source


def test_sources_beyond_the_limit_are_counted_together() -> None:
    counters = OutcomeCounters()
    for number in range(MAX_SOURCES + 5):
        counters.add_unjoined(topics.CLICKS, "too_late", f"app of {number}")
    counters.add_unjoined(topics.CLICKS, "no_link", "app of 3")
    counters.add_unjoined(topics.CLICKS, "no_link", "app of 24")
    found = {reason_and_source(name): number for name, number in counters.items() if reason_and_source(name)}
    assert len({source for _, source in filter(None, found)}) == MAX_SOURCES + 1
    assert (found["too_late", "app of 3"], found["too_late", OTHER_SOURCES]) == (1, 5)
    assert (found["no_link", "app of 3"], found["no_link", OTHER_SOURCES]) == (1, 1)


def test_a_rejected_record_is_produced_and_dead_but_a_tick_is_neither() -> None:
    counters = OutcomeCounters()
    counters.add_rejected(topics.CLICKS, "not_json")
    counters.add_rejected(topics.TICKS, "not_json")
    assert counters == {"not_json": 2, "produced": 1, "dead": 1}
