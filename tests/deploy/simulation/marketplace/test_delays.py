import numpy as np
import pytest
from scipy.stats import lognorm

from deploy.simulation.marketplace import delays
from deploy.simulation.marketplace.settings import DelayName

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("preset", "within_ms", "share"),
    [("fast", 30 * MINUTE, 0.60), ("slow", HOUR, 0.35), ("slow", DAY, 0.50), ("slow", 7 * DAY, 0.81)],
)
def test_shares_of_models_md(preset: DelayName, within_ms: int, share: float) -> None:
    exact = sum(
        weight * float(lognorm.cdf(within_ms, sigma, scale=median)) for weight, median, sigma in delays.MIXTURES[preset]
    )
    assert exact == pytest.approx(share, abs=0.02)
    rng = np.random.default_rng(3)
    drawn = np.array([delays.order_ms(rng, preset) for _ in range(20_000)])
    assert (drawn <= within_ms).mean() == pytest.approx(exact, abs=0.018)


def test_refunds_take_three_days_in_the_median() -> None:
    rng = np.random.default_rng(4)
    drawn = np.array([delays.refund_ms(rng, 72.0) for _ in range(20_000)])
    assert np.median(drawn) == pytest.approx(3 * DAY, rel=0.05)
    assert np.log(drawn).std() == pytest.approx(1.0, abs=0.03)
