"""Profiles: the newest behaviours and clicked pages of a client."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import msgspec
import pytest

from stream.join import profiles
from stream.schemas import events, topics
from tests.laws.join_log import (
    SETTINGS,
    Event,
    Log,
    Outputs,
    Tables,
    click,
    impression,
    purchase,
    send,
)
from tests.stream.join.runs import run_events


def test_profiles_hold_the_newest_behaviours() -> None:
    small = replace(SETTINGS, profile_size=2, profile_idle_s=10_000_000)
    happened: list[Event] = [impression(1)]
    happened += [click(number, 1, "item-1", at_s=number) for number in (1, 2, 3)]
    emitted = [r for r in run_events(happened, small).outputs.records if r.topic == topics.PROFILES and r.value]
    profile = events.Profile(**json.loads(emitted[-1].value or b""))
    assert [behaviour["event_id"] for behaviour in profile.behaviours] == ["c3", "c2"]  # type: ignore[index]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_profile_holds_the_idle_time_before_its_newest_behaviour_in_any_order(order: tuple[int, ...]) -> None:
    profile = profiles.empty("client")
    for at in order:
        behaviour = events.Behaviour(
            event_id=f"c{at}", item_id="item", action="click", event_ts=10 * at, category=None, price_minor=1
        )
        profiles.add(profile, behaviour, 50, 20)
    assert [each["event_id"] for each in json.loads(profiles.encode(profile))["behaviours"]] == ["c2", "c1"]
    assert profile.updated_ts == 20


def profile_of(happened: list[Event]) -> events.Profile:
    emitted = [r for r in run_events(happened).outputs.records if r.topic == topics.PROFILES and r.value]
    return msgspec.json.decode(emitted[-1].value or b"", type=events.Profile)


def test_behaviours_name_their_lists_and_a_clicked_list_is_a_page() -> None:
    items = [f"item-{number}" for number in range(1, 9)]
    happened: list[Event] = [impression(1, items=items), impression(2, at_s=1)]
    happened += [click(1, 1, "item-8", at_s=3), click(2, 1, "item-8", at_s=4, action="add_to_cart")]
    happened += [purchase(1, 2, ["item-2"], at_s=5)]
    found = profile_of(happened)
    assert [(b.action, b.query_id) for b in found.behaviours] == [
        ("purchase", "q2"),
        ("add_to_cart", "q1"),
        ("click", "q1"),
    ]
    shown_ts = happened[0].event_ts
    assert found.pages == [events.ClickedPage(query_id="q1", impression_ts=shown_ts, item_id=items[:6])]


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), (3, 0, 6, 1, 5, 2, 4, 3)])
def test_a_profile_holds_the_pages_shown_last_in_any_order(order: Sequence[int]) -> None:
    profile = profiles.empty("client")
    for at in order:
        page = events.ClickedPage(query_id=f"q{at}", impression_ts=10 * at, item_id=[f"item-{at}"])
        behaviour = events.Behaviour(event_id=f"c{at}", item_id="item", action="click", event_ts=100 + at)
        profiles.add(profile, behaviour, 50, 1_000)
        profiles.add_page(profile, page, 1_000)
    decoded = msgspec.json.decode(profiles.encode(profile), type=events.Profile)
    assert [page.query_id for page in decoded.pages] == ["q6", "q5", "q4", "q3", "q2"]
    profiles.add(profile, events.Behaviour(event_id="d", item_id="i", action="click", event_ts=1_045), 50, 1_000)
    profiles.add_page(profile, None, 1_000)
    assert [page.query_id for page in profile.pages] == ["q6", "q5"], "the idle time before the newest behaviour"


def test_an_expired_profile_does_not_come_back() -> None:
    """The deletion of its row depends on confirmations; this run confirms no micro-batch."""
    later_s = 3 * SETTINGS.profile_idle_s
    happened: list[Event] = [impression(1), click(1, 1, "item-1", at_s=5)]
    happened += [impression(2, at_s=later_s), click(2, 2, "item-1", at_s=later_s + 5)]
    log, outputs = Log.of([send(event) for event in happened]), Outputs()
    join = Tables().join()
    records = [record for name in topics.INPUTS for record in log.records[name]]
    for record in sorted(records, key=lambda record: record.timestamp):
        outputs.take(join.apply([record]))
    emitted = [r.value for r in outputs.records if r.topic == topics.PROFILES and r.value]
    assert [len(json.loads(value)["behaviours"]) for value in emitted] == [1, 1]
