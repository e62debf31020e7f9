import numpy as np
import pytest
from scipy.optimize import minimize

from tests.trainer.examination.logs import THETA, drawn
from trainer.examination.observations import Observations
from trainer.examination.within_strata import Cells, by_counts, by_em, components, effective_clicks


def cells_of(rows: Observations) -> Cells:
    shape = (int(rows.stratum.max()) + 1, int(rows.position.max()))
    ones = np.ones(rows.position.size)
    return Cells.count(rows.stratum, rows.position - 1, rows.is_clicked.astype(np.float64), ones, shape)


def test_cells_count_rows_by_weight() -> None:
    found = Cells.count(
        np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0]), np.array([2.0, 1.0, 3.0]), (2, 2)
    )
    assert found.shown.tolist() == [[2, 1], [0, 3]]
    assert found.clicked.tolist() == [[2, 0], [0, 3]]
    assert found.merged(np.array([0])).shown.tolist() == [[3], [3]]


def test_counts_maximise_the_poisson_likelihood_with_a_constant_for_each_stratum() -> None:
    """The oracle maximises the whole likelihood, constants included, by a general optimizer."""
    cells = cells_of(drawn(1, 2_000, swap_share=0.5))
    num_S, num_G = cells.shown.shape

    def loss(free: np.ndarray) -> float:
        log_rate = free[:num_S, None] + np.concatenate([[0.0], free[num_S:]])[None, :]
        return float((cells.shown * np.exp(log_rate) - cells.clicked * log_rate)[cells.shown > 0].sum())

    oracle = minimize(loss, np.full(num_S + num_G - 1, -1.0), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(by_counts(cells)[1:], oracle.x[num_S:], atol=2e-4)


def test_em_maximises_the_likelihood_of_single_clicks() -> None:
    """The oracle maximises the position-based model's likelihood by a general optimizer."""
    cells = cells_of(drawn(2, 3_000))
    num_S, num_G = cells.shown.shape

    def loss(free: np.ndarray) -> float:
        chance = np.exp(-np.exp(free[:num_S, None]) - np.exp(np.concatenate([[-3.0], free[num_S:]]))[None, :])
        misses = cells.shown - cells.clicked
        return -float((cells.clicked * np.log(chance) + misses * np.log1p(-chance))[cells.shown > 0].sum())

    oracle = minimize(loss, np.zeros(num_S + num_G - 1), method="BFGS", options={"gtol": 1e-4})
    theta = np.exp(-np.exp(oracle.x[num_S:]) + np.exp(-3.0))
    np.testing.assert_allclose(np.exp(by_em(cells))[1:], theta, rtol=0.01)


@pytest.mark.parametrize("fit", [by_counts, by_em])
def test_a_large_log_gives_the_curve_back(fit: object) -> None:
    assert callable(fit)
    np.testing.assert_allclose(np.exp(fit(cells_of(drawn(3, 60_000)))), THETA, rtol=0.08)


def test_effective_clicks_are_the_curvature_of_the_likelihood() -> None:
    """The oracle is a second difference of the likelihood given each stratum's clicks."""
    cells = cells_of(drawn(4, 3_000, swap_share=0.4))
    log_theta = by_counts(cells)

    def value(at: np.ndarray) -> float:
        share = cells.shown * np.exp(at)
        share = share / share.sum(axis=1, keepdims=True)
        return float((cells.clicked * np.log(np.where(share > 0, share, 1.0))).sum())

    h = 1e-3
    for group, found in enumerate(effective_clicks(cells, log_theta)):
        step = np.eye(log_theta.size)[group] * h
        curvature = -(value(log_theta + step) - 2 * value(log_theta) + value(log_theta - step)) / h**2
        assert found == pytest.approx(curvature, rel=1e-3)


def test_groups_hang_together_through_strata_with_clicks() -> None:
    shown = np.array([[5.0, 5, 0, 0], [0, 0, 5, 5], [0, 5, 5, 0]])
    clicked = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert components(Cells(shown=shown, clicked=clicked)) == [[0, 1], [2, 3]]
    assert components(Cells(shown=shown, clicked=np.ones((3, 4)))) == [[0, 1, 2, 3]]
