"""Back-pressure: the topics ahead of a lagging one are paused, and reading always continues."""

from hypothesis import given
from hypothesis import strategies as st

from stream.schemas import topics
from tests.stream.join.clocks import NOW_TS, Clock

ALL_TWO = dict.fromkeys(topics.EVENT_TOPICS, 2)


def test_a_topic_ahead_of_the_slowest_lagging_one_is_paused() -> None:
    clock = Clock()
    clock.tick(NOW_TS + 1_000_000, {topics.IMPRESSIONS: 2, topics.CLICKS: 2})
    clock.read(topics.CLICKS, NOW_TS)
    clock.read(topics.IMPRESSIONS, NOW_TS + 120_000)
    assert not clock.backpressure.topics_ahead(120_000)
    clock.read(topics.IMPRESSIONS, NOW_TS + 120_001)
    assert clock.backpressure.topics_ahead(120_000) == {topics.IMPRESSIONS}
    clock.read(topics.CLICKS, NOW_TS + 1)
    assert not clock.backpressure.topics_ahead(120_000), "clicks have caught up"


def test_clicks_and_orders_wait_for_lagging_impressions() -> None:
    clock = Clock()
    clock.tick(NOW_TS + 1_000_000, ALL_TWO)
    clock.read(topics.IMPRESSIONS, NOW_TS)
    clock.read(topics.CLICKS, NOW_TS + 200_000)
    clock.read(topics.CONVERSIONS, NOW_TS + 300_000)
    assert clock.backpressure.topics_ahead(120_000) == {topics.CLICKS, topics.CONVERSIONS}
    assert clock.backpressure.topics_ahead(250_000) == {topics.CONVERSIONS}


def test_before_the_first_tick_the_end_offsets_at_the_start_show_the_lag() -> None:
    clock = Clock()
    clock.read(topics.CLICKS, NOW_TS)
    clock.read(topics.IMPRESSIONS, NOW_TS + 120_001)
    assert not clock.backpressure.topics_ahead(120_000)
    clock.positions.seed({}, ALL_TWO)
    assert clock.backpressure.topics_ahead(120_000) == {topics.IMPRESSIONS}


@given(highs=st.tuples(*[st.integers(0, 3)] * 3), read=st.tuples(*[st.integers(0, 3)] * 3), limit_ms=st.integers(0, 2))
def test_one_lagging_topic_is_never_paused(highs: tuple[int, ...], read: tuple[int, ...], limit_ms: int) -> None:
    """Else a backlog would stand still for ever."""
    clock = Clock()
    clock.positions.seed({}, ALL_TWO)
    for topic, newest, num_read in zip(topics.EVENT_TOPICS, highs, read, strict=True):
        clock.watermark.observe(topic, NOW_TS + newest)
        clock.positions.seed({topic: num_read}, {})
    lagging = {topic for topic, num_read in zip(topics.EVENT_TOPICS, read, strict=True) if num_read < 2}
    paused = clock.backpressure.topics_ahead(limit_ms)
    assert not lagging or lagging - paused
    assert lagging or not paused
