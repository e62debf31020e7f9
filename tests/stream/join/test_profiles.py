"""Profiles: the newest behaviours of a client."""

import json
from dataclasses import replace

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
