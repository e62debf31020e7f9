"""The watermark never falls, holds for lagging topics, and moves on past quiet ones."""

from stream.schemas import topics
from tests.stream.join.clocks import ENDS, NOW_TS, Clock


def _clock() -> Clock:
    clock = Clock()
    clock.tick(NOW_TS, ENDS)
    return clock


def test_the_slower_topic_decides() -> None:
    clock = _clock()
    clock.read(topics.IMPRESSIONS, NOW_TS - 1_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0, "no click has arrived"
    clock.read(topics.CLICKS, NOW_TS - 5_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 65_000
    clock.read(topics.CLICKS, NOW_TS - 600_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 65_000


def test_conversions_that_come_late_hold_nothing_but_expiry() -> None:
    clock = _clock()
    clock.tick(NOW_TS, ENDS | {topics.CONVERSIONS: 1})
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        clock.read(topic, NOW_TS)
    clock.read(topics.CONVERSIONS, NOW_TS - 3_600_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 60_000
    assert clock.watermark.expiry_ts == NOW_TS - 3_660_000
    clock.tick(NOW_TS + 30_000, ENDS | {topics.CONVERSIONS: 1})
    clock.watermark.advance()
    assert clock.watermark.expiry_ts == NOW_TS, "conversions are known to be read and quiet"


def test_unread_conversions_hold_the_watermark() -> None:
    clock = _clock()
    clock.tick(NOW_TS, ENDS | {topics.CONVERSIONS: 2})
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        clock.read(topic, NOW_TS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0, "two conversions are unread"
    clock.read(topics.CONVERSIONS, NOW_TS - 900_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 960_000, "the unread one may be as old as the read one"
    clock.read(topics.CONVERSIONS, NOW_TS - 3_600_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 60_000


def test_conversions_past_the_newest_tick_hold_nothing() -> None:
    clock = _clock()
    for topic in topics.EVENT_TOPICS:
        clock.read(topic, NOW_TS - 5_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 65_000


def test_a_quiet_topic_lets_go_only_when_caught_up() -> None:
    clock = _clock()
    clock.read(topics.IMPRESSIONS, NOW_TS)
    clock.tick(NOW_TS + 29_999, ENDS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0
    clock.tick(NOW_TS + 40_000, ENDS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0, "one click is still unread"
    clock.read(topics.CLICKS, NOW_TS - 900_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS + 10_000


def test_ticks_read_long_before_the_events_change_nothing() -> None:
    clock = Clock()
    clock.tick(NOW_TS, ENDS)
    clock.tick(NOW_TS + 3_600_000, ENDS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0
    clock.read(topics.IMPRESSIONS, NOW_TS)
    clock.read(topics.CLICKS, NOW_TS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS + 3_570_000


def test_a_topic_that_grew_past_the_tick_is_not_quiet() -> None:
    clock = _clock()
    for topic in (topics.IMPRESSIONS, topics.CLICKS, topics.CLICKS):
        clock.read(topic, NOW_TS)
    clock.tick(NOW_TS + 40_000, ENDS)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 60_000


def test_future_times_are_clamped() -> None:
    clock = _clock()
    assert clock.read(topics.IMPRESSIONS, NOW_TS + 3_600_000)
    assert not clock.read(topics.CLICKS, NOW_TS + 60_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 60_000, "the lateness of the others is not used up"


def test_events_before_the_first_tick_are_clamped_by_it() -> None:
    clock = Clock()
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        clock.read(topic, NOW_TS + 3_600_000)
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == 0
    clock.tick(NOW_TS, {topics.IMPRESSIONS: 9, topics.CLICKS: 9})
    clock.watermark.advance()
    assert clock.watermark.watermark_ts == NOW_TS - 60_000


def test_now_never_moves_back() -> None:
    clock = _clock()
    clock.tick(NOW_TS - 1, ENDS)
    assert clock.watermark.now_ts == NOW_TS
