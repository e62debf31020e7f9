"""Utility of an item for a client, alone and among its neighbours in a list.

Shapes: n items of one list.
"""

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace.world import TREND_PERIOD_H, Floats, Ints, World, category_of_text
from stream.schemas.times import HOUR_MS

NEAR_DUPLICATE = 0.9
CONTRAST, DECOY, SATIATION = 1.0, 0.5, 0.4


def alone(world: World, *, client: int, text: int, items: Ints, relevance_n: Floats, at_ts: int) -> Floats:
    """Return the utility of the candidates of one query, in their given order."""
    truth, clients, dials = world.items, world.clients, world.settings
    log_price_n = truth.log_price[items]
    hours = (at_ts - dials.start_ts) / HOUR_MS
    look_n = truth.look[items] @ clients.taste[client, category_of_text(text)]
    meaning_n = truth.meaning[items] @ clients.wish[client]
    is_loyal_n = truth.brand[items] == clients.brand[client]
    trend_n = truth.trend[items] * np.sin(2 * np.pi * (hours / TREND_PERIOD_H + truth.phase[items]))
    utility_n: Floats = (
        relevance_n
        + truth.quality[items]
        + truth.type_worth[items]
        - clients.price_weight[client] * (log_price_n - np.median(log_price_n))
        + dials.kv * np.tanh(look_n)
        + dials.kt * np.tanh(meaning_n)
        + dials.loyalty * clients.loyalty[client] * is_loyal_n
        + dials.trend * trend_n
    )
    return utility_n


def in_context(world: World, items: Ints) -> Floats:
    """Return what the shown order adds to U: price contrast, decoys, satiation, times rho."""
    n = len(items)
    if world.settings.rho == 0 or n < 2:
        return np.zeros(n)
    log_price_n = world.items.log_price[items]
    quality_n = world.items.quality[items]
    neighbours_n = np.full(n, 2.0)
    neighbours_n[[0, -1]] = 1.0
    around_n = np.zeros(n)
    around_n[1:] += log_price_n[:-1]
    around_n[:-1] += log_price_n[1:]
    contrast_n = around_n / neighbours_n - log_price_n
    is_twin_nn = _near_duplicates(world.items.look[items])
    is_dominated_nn = (quality_n[None, :] < quality_n[:, None]) & (log_price_n[None, :] > log_price_n[:, None])
    distance_nn = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    has_decoy_n = (is_twin_nn & is_dominated_nn & (distance_nn <= 2)).any(axis=1)
    num_above_n = np.tril(is_twin_nn, -1).sum(axis=1)
    context_n: Floats = world.settings.rho * (CONTRAST * contrast_n + DECOY * has_decoy_n - SATIATION * num_above_n)
    return context_n


def _near_duplicates(look_nK: Floats) -> NDArray[np.bool_]:
    unit_nK = look_nK / np.linalg.norm(look_nK, axis=1, keepdims=True)
    is_twin_nn: NDArray[np.bool_] = unit_nK @ unit_nK.T > NEAR_DUPLICATE
    np.fill_diagonal(is_twin_nn, val=False)
    return is_twin_nn
