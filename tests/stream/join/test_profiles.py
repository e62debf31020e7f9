"""Profiles: the newest behaviours of a client."""

import json
from dataclasses import replace
from itertools import permutations

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
