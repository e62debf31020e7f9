"""The watermark never falls, holds for lagging topics, and moves on past quiet ones."""

from stream import topics
from stream.join.settings import JoinSettings
from stream.join.watermark import Clock

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
    assert clock.watermark_ts == T


def test_events_before_the_first_tick_are_clamped_by_it() -> None:
    clock = Clock(JoinSettings())
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        _read(clock, topic, T + 3_600_000)
    clock.advance()
    assert clock.watermark_ts == 0
    clock.tick(T, {topics.IMPRESSIONS: 9, topics.CLICKS: 9})
    clock.advance()
    assert clock.watermark_ts == T


def test_now_never_moves_back() -> None:
    clock = _clock()
    clock.tick(T - 1, HW)
    assert clock.now_ts == T


def test_impressions_ahead_of_lagging_clicks_ask_for_a_pause() -> None:
    clock = Clock(JoinSettings())
    clock.tick(T + 1_000_000, {topics.IMPRESSIONS: 2, topics.CLICKS: 2})
    _read(clock, topics.CLICKS, T)
    _read(clock, topics.IMPRESSIONS, T + 120_000)
    assert not clock.impressions_run_ahead()
    _read(clock, topics.IMPRESSIONS, T + 120_001)
    assert clock.impressions_run_ahead()
    _read(clock, topics.CLICKS, T + 1)
    assert not clock.impressions_run_ahead(), "clicks have caught up"
