"""Training holds of a partition: start, end, and equality after a restart."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from stream.join.health import Health, Monitor, PartitionStatus
from stream.schemas import topics
from stream.schemas.session import Progress
from tests.laws.join_log import (
    CLIENTS,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Outputs,
    Stored,
    Tables,
    click,
    impression,
    send,
)

MINUTE_MS = 60_000
NOW_TS = START_TS


def monitor(stored: bytes = b"") -> Monitor:
    return Monitor(max_behind_ms=300_000, stored=stored)


def status(
    counters: Mapping[str, int], *, at_ms: int = 0, behind_ms: int = 0, num_open: int | None = None, read: bool = True
) -> PartitionStatus:
    left = counters.get("produced", 0) - counters.get("dead", 0)
    now_ts = NOW_TS + at_ms
    return PartitionStatus(
        counters=counters,
        now_ts=now_ts,
        watermark_ts=now_ts - behind_ms,
        num_open=left if num_open is None else num_open,
        clicks_read=read,
    )


def holds(counters: Mapping[str, int], *, at_ms: int = 0, behind_ms: int = 0) -> list[str]:
    return monitor().observe(status(counters, at_ms=at_ms, behind_ms=behind_ms)).hold


def test_a_watermark_further_behind_than_allowed_holds_training() -> None:
    assert holds({}, behind_ms=300_000) == []
    assert holds({}, behind_ms=300_001) == ["watermark_behind"]


def test_no_watermark_yet_is_no_reason_to_hold() -> None:
    assert monitor().observe(replace(status({}), watermark_ts=0)).hold == []


def test_dead_share_and_join_rate_need_enough_events() -> None:
    assert holds({"produced": 199, "dead": 100, "clicks_joined": 10, "clicks_late": 100}) == []
    many = {"produced": 200, "dead": 2, "clicks_joined": 180, "clicks_orphan": 20}
    assert holds(many) == ["dead_share", "join_rate"]


def test_a_hold_is_released_after_five_healthy_minutes() -> None:
    watch = monitor()
    assert watch.observe(status({}, behind_ms=400_000)).hold == ["watermark_behind"]
    assert watch.observe(status({}, at_ms=100_000, behind_ms=400_000)).hold == ["watermark_behind"]
    assert watch.observe(status({}, at_ms=399_999)).hold == ["watermark_behind"]
    assert watch.observe(status({}, at_ms=400_000)).hold == []


def _silence(
    *, clicks: int, impressions_a_minute: int, minutes: int, read: bool = True, trickle: int = 0
) -> list[list[str]]:
    watch, found = monitor(), []
    for minute in range(minutes + 1):
        counters = {
            topics.CLICKS: clicks + trickle * minute,
            topics.IMPRESSIONS: 10_000 + impressions_a_minute * minute,
        }
        found.append(watch.observe(status(counters, at_ms=minute * MINUTE_MS, read=read)).hold)
    return found


def test_clicks_are_silent_after_two_minutes_of_lists() -> None:
    assert _silence(clicks=2_000, impressions_a_minute=100, minutes=3) == [[], [], [], ["clicks_silent"]]
    assert _silence(clicks=0, impressions_a_minute=400, minutes=3)[-1] == ["clicks_silent"]


@pytest.mark.parametrize(
    ("clicks", "impressions_a_minute", "read", "trickle"),
    [
        (2_000, 100, True, 1),  # a click a minute
        (2_000, 10, True, 0),  # a quiet night: 6 expected in three minutes, and silence may be chance
        (2_000, 0, True, 0),  # no lists either
        (2_000, 100, False, 0),  # clicks are there and unread: the watermark shows it
        (0, 100, True, 0),  # no click ever: the rate is unknown
        (199, 200, True, 0),  # too few clicks to know the rate, as when one client clicked on everything
    ],
)
def test_clicks_are_not_silent(clicks: int, impressions_a_minute: int, read: bool, trickle: int) -> None:
    found = _silence(clicks=clicks, impressions_a_minute=impressions_a_minute, minutes=3, read=read, trickle=trickle)
    assert found == [[]] * 4


def test_counters_that_do_not_add_up_hold_when_they_begin_to() -> None:
    watch, counters = monitor(), {"produced": 10, "dead": 1}
    assert watch.observe(status(counters, num_open=9)).hold == []
    assert watch.observe(status(counters, at_ms=1_000, num_open=8)).hold == ["conservation"]
    assert watch.observe(status(counters, at_ms=300_999, num_open=8)).hold == ["conservation"]
    assert watch.observe(status(counters, at_ms=301_000, num_open=8)).hold == []
    assert watch.observe(status(counters, at_ms=302_000, num_open=7)).hold == ["conservation"]


def _week(watch: Monitor, counters: dict[str, int], week: int, ctr: float, coverage: float = 0.99) -> list[Health]:
    """Observe an hour of a week, minute by minute, and a minute of the next."""
    rng = np.random.default_rng(week)
    found = []
    for minute in range(61):
        counters["sessions"] += 100
        counters["sessions_labelled"] += int(rng.binomial(100, ctr))
        counters["clicks_joined"] += (timely := int(rng.binomial(100, coverage)))
        counters["clicks_late"] += 100 - timely
        found.append(watch.observe(status(counters, at_ms=(week * 7 * 1_440 + minute) * MINUTE_MS - _MINUTE_OF_HOUR)))
    return found


_MINUTE_OF_HOUR = NOW_TS % 3_600_000


def test_rates_outside_of_the_control_limits_hold_training() -> None:
    watch = monitor()
    counters = dict.fromkeys(("sessions", "sessions_labelled", "clicks_joined", "clicks_late"), 0)
    assert all(health.hold == [] for health in _week(watch, counters, 0, 0.2))
    assert all(health.hold == [] for health in _week(watch, counters, 1, 0.9)), "nothing is known yet"
    watch = monitor()
    for week in range(6):
        assert all(health.hold == [] for health in _week(watch, counters, week, 0.2 + 0.01 * (week % 3)))
    halved = _week(watch, counters, 6, 0.1)
    assert halved[-1].hold == ["ctr"]
    assert halved[-1].ctr == pytest.approx(0.1, abs=0.05)
    assert all(health.hold == [] for health in _week(watch, counters, 7, 0.2)), "an outage of one hour changes no limit"
    # Late clicks are also clicks that do not join, hence both names.
    assert _week(watch, counters, 8, 0.2, coverage=0.8)[-1].hold == ["coverage", "join_rate"]


def test_a_lasting_change_is_accepted_the_week_after() -> None:
    watch = monitor()
    counters = dict.fromkeys(("sessions", "sessions_labelled", "clicks_joined", "clicks_late"), 0)
    for week in range(5):
        _week(watch, counters, week, 0.1)
    assert _week(watch, counters, 5, 0.2)[-1].hold == ["ctr"]
    assert _week(watch, counters, 6, 0.2)[-1].hold == []


def test_the_stored_state_is_bounded_and_continues_in_another_monitor() -> None:
    watch = monitor()
    counters = dict.fromkeys(("sessions", "sessions_labelled", "clicks_joined", "clicks_late"), 0)
    for week in range(5):
        _week(watch, counters, week, 0.2)
    other = monitor(watch.stored)
    assert other.stored == watch.stored
    left = _week(watch, dict(counters), 5, 0.1)
    assert left == _week(other, dict(counters), 5, 0.1)
    assert left[-1].hold == ["ctr"]
    assert other.stored == watch.stored
    assert len(watch.stored) < 4_000


def _trouble() -> Log:
    """Orphans, poison and silence, one after the other."""
    happened: list[Event] = []
    happened += [impression(n, client=CLIENTS[n % 4], at_s=n) for n in range(1_500)]
    happened += [click(n, n, "item-1", client=CLIENTS[n % 4], at_s=n + 1) for n in range(0, 400, 3)]
    happened += [click(5_000 + n, 9_999, "item-1", client=CLIENTS[n % 4], at_s=100) for n in range(300)]
    return Log.of(send(event) for event in happened)


def _reports(outputs: Outputs) -> dict[int, Progress]:
    return {report.now_ts: report for report in outputs.progress()}


def _batch(record: Stored) -> tuple[str, int]:
    return record.topic, record.offset if record.topic == topics.TICKS else 0


@pytest.mark.no_cover
def test_holds_survive_a_crash_at_any_micro_batch() -> None:
    log = _trouble()
    arrived = sorted((record for name in topics.INPUTS for record in log.records[name]), key=lambda r: r.timestamp)
    pieces = [list(piece) for _, piece in itertools.groupby(arrived, key=_batch)]
    calm = Outputs()
    join = Tables().join(SETTINGS)
    for piece in pieces:
        calm.take(join.apply(piece))
    names = {name for report in _reports(calm).values() for name in report.hold}
    assert {"clicks_silent", "join_rate"} <= names
    assert "conservation" not in names
    assert _reports(calm)[max(_reports(calm))].hold == []
    for every in (5, 60):
        killed, tables = Outputs(), Tables()
        for start in range(0, len(pieces), every):
            restarted = tables.join(SETTINGS)
            for piece in pieces[start : start + every]:
                killed.take(restarted.apply(piece))
        assert _reports(killed) == _reports(calm)
