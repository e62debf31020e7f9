"""Metrics of the join worker: the gains of its counters."""

from stream.agents.metrics import JoinMetrics


def test_unjoined_events_are_counted_by_reason_and_source() -> None:
    metrics, seen = JoinMetrics(), dict[str, int]()
    metrics.count({"orphan": 3, "no_click": 3, "no_click of web": 2, "no_click of app of a shop": 1}, seen)
    metrics.count({"orphan": 4, "no_click": 4, "no_click of web": 3, "no_click of app of a shop": 1}, seen)
    values = {
        source: metrics.registry.get_sample_value(
            "shelfwise_join_unjoined_total", {"reason": "no_click", "source": source}
        )
        for source in ("web", "app of a shop")
    }
    assert values == {"web": 3, "app of a shop": 1}
    assert metrics.registry.get_sample_value("shelfwise_join_outcome_reasons_total", {"reason": "no_click"}) == 4
