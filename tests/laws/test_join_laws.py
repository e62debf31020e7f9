"""Laws of the join: order, duplicates and crashes change nothing; every unit has one outcome; no row stays behind."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.join import open_count
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import decode, topics
from stream.schemas.events import ALL_LINES
from tests.laws.join_log import (
    CLIENTS,
    ITEMS,
    MAX_DELAY_MS,
    SETTINGS,
    Event,
    Log,
    Run,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
    run_with_crashes,
    send,
    whole_reversal,
)

_SPAN_S = 2_400
_laws = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_seeds = st.integers(0, 2**32 - 1)


@st.composite
def shop_days(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a few clients: lists, clicks, carts, orders, refunds; some refer to nothing."""
    events: list[Event] = []
    shown: list[tuple[int, str, int, list[str]]] = []
    for number in range(draw(st.integers(1, 6))):
        client = draw(st.sampled_from(CLIENTS))
        at_s = draw(st.integers(0, _SPAN_S))
        items = draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=5))
        shown.append((number, client, at_s, items))
        currency = draw(st.sampled_from(("EUR", "XXX")))
        events.append(impression(number, client=client, at_s=at_s, items=items, currency=currency))
    for number in range(draw(st.integers(0, 10))):
        query, client, at_s, items = draw(st.sampled_from(shown))
        named = draw(st.sampled_from((query, query, query, None, 99)))
        item = draw(st.sampled_from((*items, *items, "item-unknown")))
        # Clocks of one client may differ: a click may seem to come before its list.
        after_s = draw(st.one_of(st.integers(0, 880), st.integers(880, 8_000), st.integers(-3, 0)))
        action = draw(st.sampled_from(("click", "click", "add_to_cart")))
        # Odd milliseconds keep clicks apart from each other and from the edges of windows.
        position = draw(st.one_of(st.none(), st.integers(1, 6)))
        at_s += after_s
        events.append(
            click(number, named, item, client=client, at_s=at_s, action=action, at_ms=number + 1, position=position)
        )
    for number in range(draw(st.integers(0, 5))):
        query, client, at_s, items = draw(st.sampled_from(shown))
        named = draw(st.sampled_from((query, None, None, 99)))
        bought = draw(st.lists(st.sampled_from(items), min_size=1, max_size=2))
        after_s, currency = draw(st.integers(1, 8_000)), draw(st.sampled_from(("EUR", "EUR", "USD", "XXX")))
        order = purchase(number, named, bought, client=client, at_s=at_s + after_s, currency=currency)
        events.append(order)
        if draw(st.booleans()):
            action = draw(st.sampled_from(("refund", "cancel")))
            events.append(reversal(order, number, after_s=draw(st.integers(1, 12_000)), action=action))
        if draw(st.booleans()):
            # A clock may show a refund before its purchase.
            after_s = draw(st.one_of(st.integers(1, 12_000), st.integers(-400, 0)))
            events.append(whole_reversal(order, number, after_s=after_s))
    return events


def _delays(events: list[Event], seed: int) -> list[int]:
    return [int(delay) for delay in np.random.default_rng(seed).integers(0, MAX_DELAY_MS, len(events))]


def _log(events: list[Event], seed: int) -> Log:
    return Log.of(send(event, delay) for event, delay in zip(events, _delays(events, seed), strict=True))


def _assert_conserved(log: Log, result: Run) -> None:
    outcomes = result.outcomes
    assert open_count(result.join.counters) == 0, outcomes
    counted = recount([*log.events(), *result.outputs.records], SETTINGS)
    assert counted.is_closed
    assert {name: getattr(counted, name) for name in outcomes} == outcomes
    assert counted.open == counted.lost == 0
    assert not any("conservation" in record.hold for record in result.outputs.progress())
    _assert_every_line_is_handed_on(log, result)


def _assert_every_line_is_handed_on(log: Log, result: Run) -> None:
    """Each order line is in one session, or an unlinked line: clients keep all their orders and money."""
    joined = {
        (content.client_id, line.transaction_id, line.line_id, line.refund_id): (line.action, line.amount_minor)
        for content in result.outputs.sessions()
        for line in content.lines
    }
    unlinked = {identity: (line[0], line[3]) for identity, line in result.outputs.unlinked().items()}
    sent = {}
    for record in log.records[topics.CONVERSIONS]:
        event = decode.conversion(record.value)
        refund_id = "" if event.action_name == "purchase" else event.refund_id or event.event_id
        for line in event.items:
            identity = (event.client_id, event.transaction_id, line.line_id, refund_id)
            sent[identity] = (event.action_name, line.amount_minor)
    assert joined.keys().isdisjoint(unlinked)
    of_all_lines = {each for each in joined if (*each[:2], ALL_LINES, each[3]) in sent}
    assert {each: line for each, line in joined.items() if each not in of_all_lines} | unlinked == sent


@_laws
@given(shop_days(), _seeds, _seeds)
def test_order_within_the_lateness_changes_nothing(events: list[Event], first: int, second: int) -> None:
    """Other delays, another interleaving and other micro-batches: the same sessions, dead letters and outcomes."""
    one, other = _log(events, first), _log(events, second)
    left, right = run(one, seed=first), run(other, seed=second, max_batch=40)
    assert left.outputs.final() == right.outputs.final()
    assert left.outputs.dead_letters(topics.UNJOINED) == right.outputs.dead_letters(topics.UNJOINED)
    assert left.outputs.unlinked() == right.outputs.unlinked()
    assert left.outcomes == right.outcomes
    _assert_conserved(one, left)


@pytest.mark.slow
@_laws
@given(shop_days(), _seeds)
def test_the_batch_oracle_agrees(events: list[Event], seed: int) -> None:
    log = _log(events, seed)
    result = run(log, seed=seed)
    compared = verify([*log.events(), *result.outputs.records], SETTINGS)
    assert compared.expected == sum(record.topic == topics.IMPRESSIONS for record in log.events())
    assert compared.is_equal, compared
    assert compared.misplaced_orphans == 0


@_laws
@given(shop_days(), _seeds, st.floats(0.1, 1.0))
def test_duplicates_change_no_session(events: list[Event], seed: int, share: float) -> None:
    """Copies at other offsets are counted and otherwise ignored."""
    clean = run(_log(events, seed), seed=seed)
    rng = np.random.default_rng(seed)
    copies = [event for event in events if rng.random() < share]
    log = _log(events + copies, seed + 1)
    doubled = run(log, seed=seed)
    assert doubled.outputs.final() == clean.outputs.final()
    assert doubled.outcomes["joined"] == clean.outcomes["joined"]
    assert set(doubled.outputs.dead_letters(topics.UNJOINED)) == set(clean.outputs.dead_letters(topics.UNJOINED))
    assert doubled.outputs.unlinked() == clean.outputs.unlinked()
    _assert_conserved(log, doubled)


@_laws
@given(shop_days(), _seeds, st.lists(st.integers(1, 60), min_size=1, max_size=3))
def test_crashes_change_nothing(events: list[Event], seed: int, crashes: list[int]) -> None:
    """Killed at any point, with rows ahead of the progress row by any prefix, restarted from any older commit."""
    _assert_crashes_change_nothing(_log(events, seed), seed, crashes)


def _assert_crashes_change_nothing(log: Log, seed: int, crashes: list[int]) -> None:
    calm, killed = run(log, seed=seed), run_with_crashes(log, crashes, seed=seed)
    assert killed.outputs.final() == calm.outputs.final()
    assert killed.outputs.dead_letters(topics.UNJOINED) == calm.outputs.dead_letters(topics.UNJOINED)
    assert killed.outputs.unlinked() == calm.outputs.unlinked()
    assert killed.outputs.profiles() == calm.outputs.profiles()
    assert killed.outcomes == calm.outcomes
    _assert_conserved(log, killed)


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


@_laws
@given(shop_days(), _seeds)
def test_a_whole_partition_read_again_changes_nothing(events: list[Event], seed: int) -> None:
    log = _log(events, seed)
    result = run(log, seed=seed)
    before, counters = result.outputs.final(), dict(result.join.counters)
    again = result.tables.copy().join()
    for name in topics.INPUTS:
        result.outputs.take(again.apply(log.records[name]))
    assert result.outputs.final() == before
    assert again.counters == counters


@_laws
@given(shop_days(), _seeds)
def test_nothing_stays_behind(events: list[Event], seed: int) -> None:
    result = run(_log(events, seed), seed=seed)
    assert result.tables.hot == {}
    assert result.tables.warm == {}
    assert result.join.state_bytes == {"hot": 0, "warm": 0}
    assert result.join.open_sessions == result.join.waiting_events == 0


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
