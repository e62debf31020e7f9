import math
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine
from statsmodels.stats.power import NormalIndPower

from abtest import group_sequential
from abtest.planning import Baseline, baseline, clients_needed, last_boundary, power_of
from stream.errors import ConfigError
from stream.schemas.times import DAY_MS
from tests.harness.generated_facts import LAST_TS, arrays, fill, generate

CVR = Baseline(metric="cvr", days=14.0, clients=9_000, value=0.05, client_variance=0.0475)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1), (0.3, 0.7)])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("metric", "growth"), [("gmv", 1.0), ("cvr", 1.02), ("ctr", 1.02)])
def test_one_look_equals_statsmodels(weights: tuple[float, float], power: float, metric: str, growth: float) -> None:
    history = replace(CVR, metric=metric)
    lift = math.log(1.02) if metric == "gmv" and weights != (0.5, 0.5) else 0.02
    effect = lift * CVR.value / math.sqrt(CVR.client_variance)
    control = NormalIndPower().solve_power(
        # A variance that is larger by a factor acts as fewer clients.
        effect_size=effect,
        alpha=0.05,
        power=power,
        ratio=weights[1] / weights[0] / growth,
        alternative="two-sided",
    )
    found = clients_needed(history, 0.02, weights=weights, power=power)
    assert found == pytest.approx(control / weights[0], rel=2e-4)
    assert power_of(history, 0.02, clients=found, weights=weights) == pytest.approx(power, abs=1e-4)


def test_the_smallest_of_several_arms_decides() -> None:
    three = clients_needed(CVR, 0.05, weights=(0.5, 0.4, 0.1))
    assert three == clients_needed(CVR, 0.05, alpha=0.025, weights=(0.5, 0.1))
    assert three == clients_needed(CVR, 0.05, weights=(0.1, 0.5, 0.4, 0.0), control=1)


def test_the_last_boundary_spends_the_rest() -> None:
    # Reboussin, DeMets, Kim, Lan 2000: five looks of the O'Brien-Fleming type at .05.
    assert last_boundary(0.05, 5) == pytest.approx(2.031, abs=2e-3)
    assert last_boundary(0.05, 1) == pytest.approx(group_sequential.z_of(0.05))
    assert clients_needed(CVR, 0.05, looks=5) > clients_needed(CVR, 0.05)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mde": 0.0}, "mde = 0.0"),
        ({"mde": 0.1, "power": 1.0}, "power = 1.0"),
        ({"mde": 0.1, "weights": (1.0,)}, "weights"),
        ({"mde": 0.1, "weights": (0.0, 1.0)}, "weights"),
        ({"mde": 0.1, "weights": (0.5, math.nan)}, "weights"),
        ({"mde": 0.1, "weights": (0.5, -0.5)}, "weights"),
        ({"mde": 0.1, "control": 2}, "control = 2"),
        ({"mde": 0.1, "alpha": 0.0}, "alpha = 0.0"),
        ({"mde": 0.1, "alpha": math.nan}, "alpha = nan"),
        ({"mde": 0.1, "looks": 0}, "looks = 0"),
        ({"mde": 0.1, "looks": 5_000}, "looks = 5000"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        clients_needed(CVR, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "number"), [("value", 0.0), ("value", math.nan), ("client_variance", 0.0)])
def test_a_history_without_a_spread_gives_no_number_of_clients(field: str, number: float) -> None:
    history = replace(CVR, **{field: number})  # type: ignore[arg-type]
    for plan in (lambda: clients_needed(history, 0.1), lambda: power_of(history, 0.1, clients=9, weights=(0.5, 0.5))):
        with pytest.raises(ConfigError, match=f"{field} = {number}"):
            plan()


@pytest.mark.parametrize(("clients", "weights"), [(0, (0.5, 0.5)), (9, (0.0, 1.0)), (9, (0.5, math.inf))])
def test_no_clients_have_no_power(clients: int, weights: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=f"clients = {clients}, weights = "):
        power_of(CVR, 0.1, clients=clients, weights=weights)


@pytest.mark.slow
def test_the_history_is_all_clients_of_the_time(store_engine: Engine) -> None:
    sessions, truth = generate(seed=15, num_clients=300)
    fill(store_engine, sessions)
    found = baseline(store_engine, "cvr", 1.0)
    numbers = np.concatenate([arrays(truth, arm) for arm in ("control", "treatment")])
    orders, shown = numbers[:, 3], numbers[:, 0]
    ratio = orders.sum() / shown.sum()
    assert found.clients == 300
    assert found.value == pytest.approx(ratio)
    assert found.client_variance == pytest.approx(np.var(orders - ratio * shown, ddof=1) / shown.mean() ** 2)
    assert LAST_TS - max(session.impression_ts for session in sessions) > 1_000
    with pytest.raises(ConfigError, match="have 1 clients"):
        baseline(store_engine, "cvr", 1 / DAY_MS)


@pytest.mark.slow
def test_too_little_history_is_refused(store_engine: Engine) -> None:
    with pytest.raises(ConfigError, match="there is no history"):
        baseline(store_engine, "cvr", 14.0)
    fill(store_engine, generate(seed=15, num_clients=40)[0])
    with pytest.raises(ConfigError, match="40 clients with a mature session, expected 100"):
        baseline(store_engine, "cvr", 14.0)
    with pytest.raises(ConfigError, match="primary = 'profit'"):
        baseline(store_engine, "profit", 14.0)
