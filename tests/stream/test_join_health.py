"""Holds of a partition."""

from stream.join import health


def test_a_watermark_further_behind_than_allowed_holds_training() -> None:
    def holds(behind_ms: int) -> list[str]:
        measured = health.measure({}, [], now_ts=10_000_000, watermark_ts=10_000_000 - behind_ms, max_behind_ms=300_000)
        return measured.hold

    assert holds(300_000) == []
    assert holds(300_001) == ["watermark_behind"]


def test_no_watermark_yet_is_no_reason_to_hold() -> None:
    assert health.measure({}, [], now_ts=10_000_000, watermark_ts=0, max_behind_ms=1).hold == []


def test_dead_share_and_join_rate_need_enough_events() -> None:
    few = {"produced": 199, "dead": 100, "clicks_joined": 10, "clicks_late": 100}
    many = {"produced": 200, "dead": 2, "clicks_joined": 180, "clicks_late": 20}
    measured = [health.measure(c, [], now_ts=1_000, watermark_ts=1_000, max_behind_ms=1_000).hold for c in (few, many)]
    assert measured == [[], ["dead_share", "join_rate"]]
