"""Laws of the join: order, duplicates and crashes change nothing; every unit has one outcome; no row stays behind."""

from collections.abc import Sequence
from dataclasses import replace as dataclass_replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.join.settings import JoinSettings
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import decode, topics
from stream.schemas.events import ALL_LINES, Impression, Profile
from stream.schemas.outcomes import open_count
from tests.laws.choices import crashes, seeds
from tests.laws.join_log import (
    ITEMS,
    MAX_DELAY_MS,
    SETTINGS,
    START_TS,
    DayRun,
    Event,
    Log,
    Run,
    Stored,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
    run_with_crashes,
    send,
)
from tests.laws.shop_days import ShopDay, hostile_days, shop_days

_NUM_EXAMPLES = {"long": 1_500, "system": 20_000}
_laws = settings(
    max_examples=_NUM_EXAMPLES.get(settings.get_current_profile_name(), 40),
    deadline=None,
    # New examples on the machines of continuous integration too.
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Profiles stay until the end of the log.
_LASTING = dataclass_replace(SETTINGS, profile_idle_s=2_419_200)


def _delays(events: Sequence[Event], seed: int) -> list[int]:
    return [int(delay) for delay in np.random.default_rng(seed).integers(0, MAX_DELAY_MS, len(events))]


def _log(events: Sequence[Event], seed: int) -> Log:
    return Log.of(send(event, delay) for event, delay in zip(events, _delays(events, seed), strict=True))


def _run_all(logs: list[Log], day: ShopDay, seed: int, *, max_batch: int = 7, obeys_pauses: bool = False) -> DayRun:
    return DayRun(
        [run(log, seed=seed, settings=day.settings, max_batch=max_batch, obeys_pauses=obeys_pauses) for log in logs]
    )


def _crash_all(logs: list[Log], day: ShopDay, seed: int, crashes: list[int], *, same_order: bool = False) -> DayRun:
    return DayRun(
        [run_with_crashes(log, crashes, seed=seed, settings=day.settings, same_order=same_order) for log in logs]
    )


def _records(logs: list[Log], result: DayRun) -> list[Stored]:
    return [record for log in logs for record in log.events()] + result.outputs.records


def _assert_conserved(logs: list[Log], result: DayRun, settings: JoinSettings) -> None:
    for each in result.runs:
        assert open_count(each.join.counters) == 0, each.outcomes
    counted = recount(_records(logs, result), settings)
    assert counted.is_closed
    assert {name: getattr(counted, name) for name in result.runs[0].outcomes} == {
        name: result.outcomes[name] for name in result.runs[0].outcomes
    }
    assert counted.open == counted.lost == 0
    assert not any("conservation" in record.hold for record in result.outputs.progress())


def _assert_every_line_is_handed_on(logs: list[Log], result: DayRun) -> None:
    """Each order line is in one session, or an unlinked line: clients keep all their orders and money."""
    joined = {
        (content.client_id, line.transaction_id, line.line_id, line.refund_id): (line.action, line.amount_minor)
        for content in result.outputs.sessions()
        for line in content.lines
    }
    unlinked = {identity: (line[0], line[3]) for identity, line in result.outputs.unlinked().items()}
    sent, times = {}, set()
    for record in (record for log in logs for record in log.records[topics.CONVERSIONS]):
        event = decode.conversion(record.value)
        refund_id = "" if event.action_name == "purchase" else event.refund_id or event.event_id
        for line in event.items:
            identity = (event.client_id, event.transaction_id, line.line_id, refund_id)
            sent[identity] = (event.action_name, line.amount_minor)
            times.add((identity, event.event_ts))
    if len(times) == len(sent):
        # Of copies with different times, one may join and another one may be too late.
        assert joined.keys().isdisjoint(unlinked)
    of_all_lines = {each for each in joined if (*each[:2], ALL_LINES, each[3]) in sent}
    assert {each: line for each, line in joined.items() if each not in of_all_lines} | unlinked == sent


def _assert_nothing_stays_behind(result: DayRun) -> None:
    for each in result.runs:
        assert each.tables.hot == {}
        # A profile may outlive the day.
        assert {key for key in each.tables.warm if key[:1] != b"p"} == set()
        assert each.join.state_bytes["hot"] == 0
        assert each.join.open_sessions == each.join.waiting_events == 0


def _assert_equal(left: DayRun, right: DayRun) -> None:
    assert left.outputs.final() == right.outputs.final()
    for topic in (topics.UNJOINED, topics.DEAD_LETTERS):
        assert left.outputs.dead_letters(topic) == right.outputs.dead_letters(topic)
    assert left.outputs.unlinked().keys() == right.outputs.unlinked().keys()
    assert _comparable_profiles(left) == _comparable_profiles(right)
    assert left.outcomes == right.outcomes


def _comparable_profiles(result: DayRun) -> dict[bytes | None, Profile | None]:
    """Return profiles without what depends on the known parts of a list: prices, and pages of clients with parts.

    Source: docs/stream.md, Lists in parts.
    """
    with_parts = {session.client_id for session in result.outputs.sessions() if session.parts}
    found: dict[bytes | None, Profile | None] = {}
    for client, value in result.outputs.profiles().items():
        profile = None if value is None else msgspec.json.decode(value, type=Profile)
        if profile is not None:
            for behaviour in profile.behaviours:
                behaviour.price_minor = 0
            if profile.client_id in with_parts:
                profile.pages.clear()
        found[client] = profile
    return found


@_laws
@given(shop_days(), seeds, seeds)
def test_order_within_the_lateness_changes_nothing(day: ShopDay, first: int, second: int) -> None:
    """Other delays, another interleaving and other micro-batches: the same sessions and outcomes."""
    logs, others = day.logs(first), day.logs(second, redelayed=True)
    left, right = _run_all(logs, day, first), _run_all(others, day, second, max_batch=40)
    _assert_equal(left, right)
    _assert_conserved(logs, left, day.settings)
    _assert_every_line_is_handed_on(logs, left)


@_laws
@given(hostile_days(), seeds)
def test_pauses_neither_stop_reading_nor_lose_an_event(day: ShopDay, seed: int) -> None:
    logs = day.logs(seed)
    _assert_conserved(logs, _run_all(logs, day, seed, max_batch=40, obeys_pauses=True), day.settings)


@_laws
@given(shop_days(), seeds)
def test_pauses_change_nothing(day: ShopDay, seed: int) -> None:
    logs = day.logs(seed)
    _assert_equal(_run_all(logs, day, seed, max_batch=40, obeys_pauses=True), _run_all(logs, day, seed))


@pytest.mark.slow
@_laws
@given(shop_days(), seeds)
def test_the_batch_oracle_agrees(day: ShopDay, seed: int) -> None:
    logs = day.logs(seed)
    result = _run_all(logs, day, seed)
    compared = verify(_records(logs, result), day.settings)
    assert compared.expected == len({e.query_id for e in day.happened if isinstance(e, Impression)})
    assert compared.is_equal, compared
    assert compared.misplaced_orphans == 0
    assert compared.late_arrivals == 0


@_laws
@given(shop_days(), seeds, st.floats(0.1, 1.0))
def test_duplicates_change_no_session(day: ShopDay, seed: int, share: float) -> None:
    """Copies at other offsets are counted and otherwise ignored."""
    clean = _run_all(day.logs(seed), day, seed)
    rng = np.random.default_rng(seed)
    logs = day.logs(seed, more=[event for event in day.happened if rng.random() < share])
    doubled = _run_all(logs, day, seed)
    assert doubled.outputs.final() == clean.outputs.final()
    assert doubled.outcomes["joined"] == clean.outcomes["joined"]
    assert set(doubled.outputs.dead_letters(topics.UNJOINED)) == set(clean.outputs.dead_letters(topics.UNJOINED))
    _assert_conserved(logs, doubled, day.settings)


@_laws
@given(shop_days(), seeds, crashes)
def test_crashes_change_nothing(day: ShopDay, seed: int, crashes: list[int]) -> None:
    """Killed at any point, with rows ahead of the progress row by any prefix, restarted from any older commit."""
    logs = day.logs(seed)
    calm, killed = _run_all(logs, day, seed), _crash_all(logs, day, seed, crashes)
    _assert_equal(killed, calm)
    _assert_conserved(logs, killed, day.settings)
    _assert_nothing_stays_behind(killed)


def _assert_crashes_change_nothing(log: Log, seed: int, crashes: list[int]) -> None:
    calm, killed = run(log, seed=seed), run_with_crashes(log, crashes, seed=seed)
    _assert_equal(DayRun([killed]), DayRun([calm]))
    _assert_conserved([log], DayRun([killed]), SETTINGS)


@_laws
@given(shop_days(), seeds)
def test_a_whole_partition_read_again_changes_nothing(day: ShopDay, seed: int) -> None:
    for log in day.logs(seed):
        result = run(log, seed=seed, settings=day.settings)
        before, counters = result.outputs.final(), dict(result.join.counters)
        again = result.tables.copy().join(day.settings, log.partition)
        for name in topics.INPUTS:
            result.outputs.take(again.apply(log.records[name]))
        assert result.outputs.final() == before
        assert again.counters == counters


@_laws
@given(st.one_of(shop_days(), hostile_days()), seeds)
def test_nothing_stays_behind(day: ShopDay, seed: int) -> None:
    _assert_nothing_stays_behind(_run_all(day.logs(seed), day, seed))


@_laws
@given(hostile_days(), seeds)
def test_every_unit_has_one_outcome_beyond_all_limits(day: ShopDay, seed: int) -> None:
    """Outcomes of late events, hot keys and evictions depend on the order; their sum does not."""
    logs = day.logs(seed)
    _assert_conserved(logs, _run_all(logs, day, seed), day.settings)


@_laws
@given(hostile_days(evicts=False), seeds, crashes)
def test_crashes_change_nothing_beyond_all_limits_if_the_order_stays(
    day: ShopDay, seed: int, crashes: list[int]
) -> None:
    """The restart reads the same micro-batches as before. Evictions are left out: an evicted row is gone for it,
    and events of a full list may be read again.
    """
    logs = day.logs(seed)
    calm, killed = _run_all(logs, day, seed), _crash_all(logs, day, seed, crashes, same_order=True)
    _assert_equal(killed, calm)
    _assert_conserved(logs, killed, day.settings)
    _assert_nothing_stays_behind(killed)


@_laws
@given(hostile_days(), seeds, crashes)
def test_crashes_lose_nothing_beyond_all_limits(day: ShopDay, seed: int, crashes: list[int]) -> None:
    """The restart reads in another order, so outcomes may differ from those before the crash."""
    logs = day.logs(seed)
    killed = _crash_all(logs, day, seed, crashes)
    for each in killed.runs:
        assert open_count(each.join.counters) == 0, each.outcomes
    assert recount(_records(logs, killed), day.settings).lost == 0
    _assert_nothing_stays_behind(killed)


# Delays and interleavings that failed before: the refund of an order whose list is read again after the crash, and a
# waiting order that the restart reads after its list.
@pytest.mark.parametrize("crashes", [[4], [2, 4], [3, 5, 2]])
@pytest.mark.parametrize("seed", [*range(40), 2_699_384])
@pytest.mark.parametrize("refund_at_s", [None, 2])
def test_crashes_around_an_order_before_its_list(crashes: list[int], seed: int, refund_at_s: int | None) -> None:
    item = [ITEMS[0]]
    order = purchase(0, 0, item, at_s=1)
    sent = [send(impression(0, items=item), 49_416), send(impression(1, items=item), 15_435)]
    if refund_at_s is None:
        sent = [send(impression(0, items=item), 21_710), send(impression(1, items=item), 18_796)]
        sent += [send(click(0, 0, ITEMS[0], at_s=25, at_ms=1), 30_971), send(order, 54_759)]
    else:
        refund = reversal(order, 0, after_s=refund_at_s - 1)
        sent += [send(click(0, 0, ITEMS[0], at_ms=1), 6_449), send(order, 17_610), send(refund, 24_415)]
    _assert_crashes_change_nothing(Log.of(sent), seed, crashes)


@pytest.mark.parametrize("crash_after", range(1, 80, 3))
def test_a_crash_after_each_micro_batch_of_one_order(crash_after: int) -> None:
    """One list, click, late click, order and refund, killed at every third micro-batch."""
    order = purchase(1, None, ["item-1"], at_s=200)
    events: list[Event] = [
        impression(1),
        click(1, 1, "item-1", at_s=100),
        click(2, 1, "item-2", at_s=1_000),
        order,
        reversal(order, 1, after_s=3_000),
    ]
    log = _log(events, 7)
    calm, killed = run(log, seed=1, max_batch=2), run_with_crashes(log, [crash_after], seed=crash_after)
    assert killed.outputs.final() == calm.outputs.final()
    assert (
        killed.outcomes
        == calm.outcomes
        == {"produced": 5, "joined": 5, "duplicate": 0, "late": 0, "orphan": 0, "dead": 0}
    )


def test_an_order_joins_the_last_click_before_it_in_micro_batches_of_any_size() -> None:
    """One micro-batch may finalise the order and many clicks after it."""
    clicks_ms = (1, 2, 3, 38_004, 115_009, 204_007, 205_005, 899_008)
    events: list[Event] = [impression(0, items=ITEMS[:1])]
    for number, at_ms in enumerate(clicks_ms):
        # A click without query_id has its outcome at its deadline, so the order and later clicks are known by then.
        events.append(click(number, None if at_ms == 115_009 else 0, ITEMS[0], at_ms=at_ms))
    log = _log([*events, purchase(0, None, ITEMS[:1], at_s=1)], seed=0)
    expected = run_in_order(log)
    assert expected.outcomes["joined"] == len(events) + 1
    for seed in range(10):
        assert run(log, seed=seed, max_batch=200).outputs.final() == expected.outputs.final()


def _restamped(events: list[Event], index: int, by_ms: int) -> list[Event]:
    """Return the events with a copy of one of them that has another time."""
    copied = events[index]
    return [*events, replace(copied, event_ts=copied.event_ts + by_ms)]


def _assert_equal_in_any_order(events: list[Event]) -> Run:
    log = _log(events, 0)
    expected = run(log, settings=_LASTING)
    _assert_conserved([log], DayRun([expected]), _LASTING)
    for seed in range(1, 20):
        log = _log(events, seed)
        _assert_equal(DayRun([run(log, seed=seed, settings=_LASTING)]), DayRun([expected]))
        killed = run_with_crashes(log, [5, 3], seed=seed, settings=_LASTING)
        _assert_equal(DayRun([killed]), DayRun([expected]))
    return expected


@pytest.mark.parametrize("by_ms", [-40_000, 40_000])
def test_the_earliest_copy_of_a_click_decides_in_any_order(by_ms: int) -> None:
    """The order lies between both times, so it joins the click or the other list."""
    events: list[Event] = [
        impression(0, items=ITEMS[:1]),
        impression(1, items=ITEMS[:1]),
        click(0, 0, ITEMS[0], at_s=100),
        click(1, 1, ITEMS[0], at_s=90),
        purchase(0, None, ITEMS[:1], at_s=99 if by_ms < 0 else 120),
    ]
    expected = _assert_equal_in_any_order(_restamped(events, 2, by_ms))
    assert expected.outcomes["joined"] == 5
    assert expected.outcomes["duplicate"] == 1


def test_a_click_without_query_id_joins_one_list_also_if_its_copy_has_another_time() -> None:
    events: list[Event] = [
        impression(0, items=ITEMS[:1]),
        impression(1, at_s=60, items=ITEMS[:1]),
        click(0, None, ITEMS[0], at_s=30),
    ]
    expected = _assert_equal_in_any_order(_restamped(events, 2, 60_000))
    assert expected.outcomes["joined"] == 3
    assert expected.outcomes["duplicate"] == 1


def test_an_order_joins_a_click_of_the_same_time_in_any_order() -> None:
    """The click is past its window, so both wait for the same deadline."""
    events: list[Event] = [impression(0, items=ITEMS[:1]), click(0, 0, ITEMS[0], at_s=10)]
    events += [impression(1, items=ITEMS[:1]), click(1, 1, ITEMS[0], at_s=20)]
    events += [click(2, 0, ITEMS[0], at_s=1_000), purchase(0, None, ITEMS[:1], at_s=1_000)]
    _assert_equal_in_any_order(events)
    (session,) = {s.query_id for s in run(_log(events, 0)).outputs.sessions() if s.lines}
    assert session == "q0"


@pytest.mark.parametrize("by_ms", [-30_000, 30_000])
def test_the_earliest_copy_of_an_order_decides_in_any_order(by_ms: int) -> None:
    events: list[Event] = [
        impression(0, items=ITEMS[:1]),
        click(0, 0, ITEMS[0], at_s=10),
        purchase(0, None, ITEMS[:1], at_s=100),
    ]
    expected = _assert_equal_in_any_order(_restamped(events, 2, by_ms))
    assert expected.outcomes["joined"] == 3
    assert expected.outcomes["duplicate"] == 1


@pytest.mark.parametrize("by_s", [-24, -3, -4, 30])
def test_a_copy_of_a_click_without_query_id_sees_only_lists_of_its_time(by_s: int) -> None:
    """A restart knows the list that another copy has joined before the copy of an earlier time gets its outcome."""
    events: list[Event] = [
        impression(0, at_s=100, items=ITEMS[:1]),
        click(0, None, ITEMS[0], at_s=100),
        click(1, 0, ITEMS[0], at_s=130),
    ]
    expected = _assert_equal_in_any_order(_restamped(events, 1, by_s * 1_000))
    is_seen = by_s * 1_000 >= -SETTINGS.clock_tolerance_ms
    assert (expected.outcomes["duplicate"], expected.outcomes["orphan"]) == ((1, 0) if is_seen else (0, 1))


def test_a_copy_of_a_list_opens_no_second_session_after_the_first_has_closed() -> None:
    """A collector stamps a retry of 20 minutes later again; a younger list moves the watermark in between."""
    events = [impression(0), impression(1, at_s=SETTINGS.click_window_s + 100), impression(0, at_s=1_200)]
    log = Log.of(send(event) for event in events)
    result = run_in_order(log)
    assert [(s.query_id, s.impression_ts) for s in result.outputs.sessions() if s.query_id == "q0"] == [
        ("q0", START_TS)
    ]
    assert (result.outcomes["joined"], result.outcomes["duplicate"]) == (2, 1)
    _assert_conserved([log], DayRun([result]), SETTINGS)


def test_a_refund_is_in_time_by_the_earliest_copy_of_its_order_in_any_order() -> None:
    """The copy waits for its list to be labelled when another one, read later, has joined the labelled list."""
    order = purchase(0, 0, ITEMS[:1], at_s=1_100)
    events: list[Event] = [
        impression(0, items=ITEMS[:1]),
        click(0, 0, ITEMS[0], at_s=10),
        order,
        reversal(order, 0, after_s=SETTINGS.refund_s),
    ]
    expected = _assert_equal_in_any_order(_restamped(events, 2, -100_000))
    assert expected.outcomes["joined"] == 3
    assert expected.outcomes["late"] == expected.outcomes["duplicate"] == 1


@pytest.mark.parametrize(("list_s", "joined"), [(300, 3), (301, 1)])
def test_a_list_of_a_later_time_than_an_event_waits_for_takes_no_event(list_s: int, joined: int) -> None:
    """Also if the list is read before the event has its outcome."""
    events: list[Event] = [
        impression(0, at_s=list_s, items=ITEMS[:1]),
        click(0, 0, ITEMS[0]),
        purchase(0, 0, ITEMS[:1]),
    ]
    assert _assert_equal_in_any_order(events).outcomes["joined"] == joined


@pytest.mark.parametrize("crashes", [[12], [9, 5], [20, 3, 3]])
def test_a_restart_admits_as_many_events_of_a_client_as_before(crashes: list[int]) -> None:
    events: list[Event] = [impression(0, items=ITEMS[:1])]
    events += [click(number, 0, ITEMS[0], at_s=number) for number in range(12)]
    chosen = dataclass_replace(SETTINGS, max_client_events=6)
    for seed in range(40):
        log = _log(events, seed)
        calm = run(log, seed=seed, settings=chosen)
        killed = run_with_crashes(log, crashes, seed=seed, settings=chosen, same_order=True)
        assert calm.outcomes["dead"] > 0
        _assert_equal(DayRun([killed]), DayRun([calm]))
