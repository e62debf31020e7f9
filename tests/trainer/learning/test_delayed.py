"""Late orders: the weights by an independent oracle, and the estimate of a stream whose truth is known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.configs import MODEL_PROFILES, ModelConfig
from trainer.learning.delayed import Delayed, samples
from trainer.learning.losses import clicked_orders

METHODS: tuple[Delayed, ...] = ("none", "fnw")


def oracle(
    p: NDArray[np.float64], clicked: NDArray[np.bool_], bought: NDArray[np.bool_], first: NDArray[np.bool_], method: str
) -> list[list[float]]:
    """Return (positive, negative) of each item, item by item, by the table of samples in docs/training.md."""
    found = []
    for row in range(p.shape[0]):
        for column in range(p.shape[1]):
            f, positive, negative = p[row, column], 0.0, 0.0
            if clicked[row, column] and bought[row, column]:
                positive = 1 + f if method == "fnw" else 1.0
            if clicked[row, column] and first[row] and method == "fnw":
                negative = 1 - f**2
            if clicked[row, column] and first[row] and method == "none" and not bought[row, column]:
                negative = 1.0
            found.append([positive, negative])
    return found


@pytest.mark.parametrize("method", METHODS)
def test_weights_equal_those_of_the_oracle(method: Delayed) -> None:
    rng = np.random.default_rng(2)
    p, first = rng.random((40, 5)), rng.random(40) < 0.5
    clicked, bought = rng.random((40, 5)) < 0.6, rng.random((40, 5)) < 0.4
    found = samples(
        torch.from_numpy(p), torch.from_numpy(clicked), torch.from_numpy(bought), torch.from_numpy(first), method
    )
    pairs = torch.stack([found.positive, found.negative], dim=2).reshape(-1, 2)
    np.testing.assert_allclose(pairs.numpy(), oracle(p, clicked, bought, first, method), rtol=1e-12)


def estimates(method: Delayed, p: NDArray[np.float64], inside: float, seed: int, *, clicks: int) -> NDArray[np.float64]:
    """Return the estimates of a head that learns a stream: one logit per kind of click, by its gradient.

    The stream has first revisions with the orders inside of the window, and corrections with one late order each.
    Equal samples are taken together.
    """
    rng = np.random.default_rng(seed)
    bought = rng.binomial(clicks, p)
    early = rng.binomial(bought, inside)
    one, yes = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[True]])
    # Whether the item is bought, whether the list is a first revision, and how many there are of each kind.
    kinds = [(1.0, True, early), (0.0, True, clicks - early), (1.0, False, bought - early)]
    logit = torch.full((p.size,), -1.0, dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        loss = torch.zeros((), dtype=torch.float64)
        for conv, first, counts in kinds:
            for own, count in zip(logit, counts / clicks, strict=True):
                term = clicked_orders(
                    own.reshape(1, 1), conv * one, one, yes, first_B=torch.tensor([first]), method=method
                )
                loss = loss + count * term
        (gradient,) = torch.autograd.grad(loss, [logit])
        with torch.no_grad():
            # The scale of the logit: without it the rare kinds would take long.
            logit -= 0.7 * gradient / (torch.sigmoid(logit) * torch.sigmoid(-logit))
    found: NDArray[np.float64] = torch.sigmoid(logit.detach()).numpy()
    return found


TRUTH = np.array([0.02, 0.05, 0.1, 0.3])


@pytest.mark.parametrize("inside", [0.6, 0.35, 1.0])
def test_the_estimate_is_within_two_percent_of_the_truth(inside: float) -> None:
    found = estimates("fnw", TRUTH, inside, seed=4, clicks=100_000)
    assert found.mean() == pytest.approx(TRUTH.mean(), rel=0.02)
    np.testing.assert_allclose(found, TRUTH, rtol=0.05)


def test_without_a_correction_the_estimate_is_too_low() -> None:
    found = estimates("none", np.array([0.3]), 0.6, seed=4, clicks=100_000)
    # .12 of the clicks come a second time, as positives.
    assert found[0] == pytest.approx(0.3 / 1.12, rel=0.02)


def test_a_lineage_from_before_keeps_its_identity() -> None:
    assert ModelConfig().pcvr_delayed == "none"
    assert all(config.pcvr_delayed == "none" for by_name in MODEL_PROFILES.values() for config in by_name.values())
