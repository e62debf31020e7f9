from abtest.metrics import COLUMNS, METRICS
from abtest.plan import GOALS


def test_every_metric_divides_columns_that_exist() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.numerator in COLUMNS
        assert metric.denominator is None or metric.denominator in COLUMNS


def test_the_default_goals_can_decide() -> None:
    assert all(METRICS[name].can_decide for name in GOALS)
