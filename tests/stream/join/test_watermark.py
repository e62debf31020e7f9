"""The watermark never falls, holds for lagging topics, and moves on past quiet ones."""

from hypothesis import given
from hypothesis import strategies as st

from stream.join.settings import JoinSettings
from stream.join.watermark import Clock
from stream.schemas import topics

T = 1_700_000_000_000
HW = {topics.IMPRESSIONS: 1, topics.CLICKS: 1, topics.CONVERSIONS: 0}


def _clock() -> Clock:
    clock = Clock(JoinSettings())
    clock.tick(T, HW)
    return clock


def _read(clock: Clock, topic: str, event_ts: int) -> bool:
    clock.next[topic] = clock.next.get(topic, 0) + 1
    return clock.see(topic, event_ts)


def test_the_slower_topic_decides() -> None:
    clock = _clock()
    _read(clock, topics.IMPRESSIONS, T - 1_000)
    clock.advance()
    assert clock.watermark_ts == 0, "clicks were not heard of"
    _read(clock, topics.CLICKS, T - 5_000)
    clock.advance()
    assert clock.watermark_ts == T - 65_000
    _read(clock, topics.CLICKS, T - 600_000)
    clock.advance()
    assert clock.watermark_ts == T - 65_000


def test_conversions_hold_nothing_but_expiry() -> None:
    clock = _clock()
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        _read(clock, topic, T)
    clock.advance()
    assert clock.watermark_ts == T - 60_000
    assert clock.expiry_ts == 0
    clock.tick(T + 30_000, HW)
    clock.advance()
    assert clock.expiry_ts == T, "conversions are known to be empty and quiet"


def test_a_quiet_topic_lets_go_only_when_caught_up() -> None:
    clock = _clock()
    _read(clock, topics.IMPRESSIONS, T)
    clock.tick(T + 29_999, HW)
    clock.advance()
    assert clock.watermark_ts == 0
    clock.tick(T + 40_000, HW)
    clock.advance()
    assert clock.watermark_ts == 0, "one click is still unread"
    clock.see(topics.CLICKS, T - 900_000)
    clock.next[topics.CLICKS] = 1
    clock.advance()
    assert clock.watermark_ts == T + 10_000


def test_ticks_read_long_before_the_events_change_nothing() -> None:
    clock = Clock(JoinSettings())
    clock.tick(T, HW)
    clock.tick(T + 3_600_000, HW)
    clock.advance()
    assert clock.watermark_ts == 0
    _read(clock, topics.IMPRESSIONS, T)
    _read(clock, topics.CLICKS, T)
    clock.advance()
    assert clock.watermark_ts == T + 3_570_000


def test_a_topic_that_grew_past_the_tick_is_not_quiet() -> None:
    clock = _clock()
    for topic in (topics.IMPRESSIONS, topics.CLICKS, topics.CLICKS):
        _read(clock, topic, T)
    clock.tick(T + 40_000, HW)
    clock.advance()
    assert clock.watermark_ts == T - 60_000


def test_future_times_are_clamped() -> None:
    clock = _clock()
    assert _read(clock, topics.IMPRESSIONS, T + 3_600_000)
    assert not _read(clock, topics.CLICKS, T + 60_000)
    clock.advance()
    assert clock.watermark_ts == T - 60_000, "the lateness of the others is not used up"


def test_events_before_the_first_tick_are_clamped_by_it() -> None:
    clock = Clock(JoinSettings())
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        _read(clock, topic, T + 3_600_000)
    clock.advance()
    assert clock.watermark_ts == 0
    clock.tick(T, {topics.IMPRESSIONS: 9, topics.CLICKS: 9})
    clock.advance()
    assert clock.watermark_ts == T - 60_000


def test_now_never_moves_back() -> None:
    clock = _clock()
    clock.tick(T - 1, HW)
    assert clock.now_ts == T


ALL_TWO = dict.fromkeys(topics.EVENT_TOPICS, 2)


def test_what_leads_the_slowest_lagging_topic_asks_for_a_pause() -> None:
    clock = Clock(JoinSettings())
    clock.tick(T + 1_000_000, {topics.IMPRESSIONS: 2, topics.CLICKS: 2})
    _read(clock, topics.CLICKS, T)
    _read(clock, topics.IMPRESSIONS, T + 120_000)
    assert not clock.ahead(120_000)
    _read(clock, topics.IMPRESSIONS, T + 120_001)
    assert clock.ahead(120_000) == {topics.IMPRESSIONS}
    _read(clock, topics.CLICKS, T + 1)
    assert not clock.ahead(120_000), "clicks have caught up"


def test_clicks_and_orders_wait_for_lagging_lists() -> None:
    clock = Clock(JoinSettings())
    clock.tick(T + 1_000_000, ALL_TWO)
    _read(clock, topics.IMPRESSIONS, T)
    _read(clock, topics.CLICKS, T + 200_000)
    _read(clock, topics.CONVERSIONS, T + 300_000)
    assert clock.ahead(120_000) == {topics.CLICKS, topics.CONVERSIONS}
    assert clock.ahead(250_000) == {topics.CONVERSIONS}


def test_before_the_first_tick_the_end_offsets_at_the_start_tell_what_lags() -> None:
    clock = Clock(JoinSettings())
    _read(clock, topics.CLICKS, T)
    _read(clock, topics.IMPRESSIONS, T + 120_001)
    assert not clock.ahead(120_000)
    clock.ends = ALL_TWO
    assert clock.ahead(120_000) == {topics.IMPRESSIONS}


@given(highs=st.tuples(*[st.integers(0, 3)] * 3), read=st.tuples(*[st.integers(0, 3)] * 3), limit_ms=st.integers(0, 2))
def test_something_that_lags_is_never_paused(highs: tuple[int, ...], read: tuple[int, ...], limit_ms: int) -> None:
    """Else a backlog would stand still for ever."""
    clock = Clock(JoinSettings())
    clock.ends = ALL_TWO
    clock.high = {topic: T + high for topic, high in zip(topics.EVENT_TOPICS, highs, strict=True)}
    clock.next = dict(zip(topics.EVENT_TOPICS, read, strict=True))
    lagging = {topic for topic, offset in clock.next.items() if offset < 2}
    paused = clock.ahead(limit_ms)
    assert not lagging or lagging - paused
    assert lagging or not paused
