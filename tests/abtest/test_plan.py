import pytest

from abtest.metrics import METRICS
from abtest.plan import GOALS, Plan
from stream.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary": "clicks"}, "primary = 'clicks'"),
        ({"primary": "clicks", "goals": (*GOALS, "clicks")}, "primary = 'clicks'"),
        ({"primary": "aov"}, "one of the goals"),
        ({"alpha": 0.0}, "alpha"),
        ({"mde": 0.0}, "mde"),
        ({"looks": 0}, "looks = 0: expected 1 to 1000"),
        ({"looks": 5_000, "days": 30.0}, "looks = 5000: expected 1 to 1000"),
        ({"looks": 7}, "several looks need"),
        ({"clients": 1}, "clients"),
        ({"days": 0.0}, "days"),
        ({"days": 7, "clients": 100}, "give one"),
        ({"min_buyers": -1}, "min_buyers"),
        ({"currency": "eur"}, "currency"),
        ({"hold_out": 1.0}, "hold_out = 1.0"),
        ({"hold_out": -0.01}, "hold_out = -0.01"),
        ({"cuped_days": 1.0}, "cuped_days = 1.0: expected more than the attribution window"),
        ({"cuped_days": 400.0}, "cuped_days"),
    ],
)
def test_refused_plans_name_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**changes)  # type: ignore[arg-type]


def test_the_default_goals_and_every_metric_that_can_decide_are_accepted() -> None:
    assert Plan().goals == GOALS
    for name, metric in METRICS.items():
        if metric.can_decide:
            assert Plan(primary=name, goals=(name,)).primary == name
