import numpy as np
import pytest

from deploy.simulation.marketplace.choice import DBN_CONTINUE, DCM_CONTINUE, ClickModel
from deploy.simulation.marketplace.settings import ClickModelName

NAMES: tuple[ClickModelName, ...] = ("pbm", "cascade", "dcm", "dbn")
ATTRACT = np.array([0.3, 0.6, 0.1, 0.45, 0.2])
SATISFY = np.array([0.5, 0.2, 0.7, 0.4, 0.1])


def model(name: ClickModelName) -> ClickModel:
    return ClickModel(name=name, eta=1.0, first_slot=1.3)


@pytest.mark.parametrize("name", NAMES)
def test_draws_agree_with_the_formulas(name: ClickModelName) -> None:
    rng = np.random.default_rng(11)
    reader, num_draws = model(name), 20_000
    clicks = np.array([reader.clicks(ATTRACT, SATISFY, rng.random((3, 5))) for _ in range(num_draws)])
    expected = reader.examined(ATTRACT, SATISFY) * ATTRACT
    # Five standard errors of a share, at five positions and four models.
    assert np.abs(clicks.mean(axis=0) - expected).max() < 5 * 0.5 / np.sqrt(num_draws)
    assert abs((~clicks.any(axis=1)).mean() - reader.no_click(ATTRACT)) < 5 * 0.5 / np.sqrt(num_draws)


def test_first_positions_by_hand() -> None:
    assert model("cascade").examined(ATTRACT, SATISFY)[:3].tolist() == pytest.approx([1, 0.7, 0.28])
    assert model("dcm").examined(ATTRACT, SATISFY)[1] == pytest.approx(0.7 + 0.3 * DCM_CONTINUE)
    assert model("dbn").examined(ATTRACT, SATISFY)[1] == pytest.approx(DBN_CONTINUE * (1 - 0.3 * 0.5))
    assert model("pbm").examined(ATTRACT, SATISFY)[1] == pytest.approx(0.5 / 1.3)


def test_cascade_clicks_once_at_most() -> None:
    rng = np.random.default_rng(12)
    assert max(int(model("cascade").clicks(ATTRACT, SATISFY, rng.random((3, 5))).sum()) for _ in range(2_000)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_many_lists_at_once_give_what_each_gives_alone(name: ClickModelName) -> None:
    rng = np.random.default_rng(13)
    attract, satisfy = rng.random((4, 6)), rng.random((4, 6))
    together = model(name).examined(attract, satisfy)
    alone = np.stack([model(name).examined(a, s) for a, s in zip(attract, satisfy, strict=True)])
    assert np.allclose(together, alone)
    assert np.allclose(model(name).no_click(attract), [model(name).no_click(a) for a in attract])
