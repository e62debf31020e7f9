"""Delays after an impression: log-normal mixtures in milliseconds.

`fast` follows Taobao search ads, `slow` follows Criteo; refunds take three days.
"""

import numpy as np

from deploy.simulation.marketplace.settings import DelayName
from stream.schemas.times import HOUR_MS, MINUTE_MS

# (weight, median in ms, sigma) per component.
MIXTURES: dict[DelayName, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "fast": ((0.68, 8 * MINUTE_MS, 1.1), (0.32, 14 * HOUR_MS, 1.4)),
    "slow": ((0.43, 20 * MINUTE_MS, 1.2), (0.57, 100 * HOUR_MS, 1.2)),
}


def order_ms(rng: np.random.Generator, preset: DelayName) -> int:
    """Draw the delay from a click to its order."""
    first, second = MIXTURES[preset]
    _weight, median, sigma = first if rng.random() < first[0] else second
    return lognormal_ms(rng, median, sigma)


def refund_ms(rng: np.random.Generator, median_h: float) -> int:
    """Draw the delay from an order to its refund."""
    return lognormal_ms(rng, median_h * HOUR_MS, 1.0)


def lognormal_ms(rng: np.random.Generator, median_ms: float, sigma: float) -> int:
    """Draw a log-normal time of at least 1 ms."""
    return max(1, int(rng.lognormal(np.log(median_ms), sigma)))
