import numpy as np
import pytest
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.versions.int8 import Agreement, Limits, agreement

EXPECTED = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 9.0], [4.0, 9.0, 9.0, 9.0]], np.float32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], np.bool_)


def of(*changed: tuple[int, int, float]) -> NDArray[np.float32]:
    found = EXPECTED.copy()
    for row, column, score in changed:
        found[row, column] = score
    return found


def test_equal_orders_agree_whatever_the_scores_and_the_padding() -> None:
    assert agreement(2 * EXPECTED + 1, EXPECTED, MASK) == Agreement(1.0, 0.0)
    assert agreement(of((1, 3, np.nan), (2, 2, -1.0)), EXPECTED, MASK) == Agreement(1.0, 0.0)


def test_a_first_item_that_changes_is_churn_and_any_change_costs_correlation() -> None:
    # Ranks 2, 1, 3, 4 instead of 1, 2, 3, 4: Spearman's 1 - 6 * 2 / (4 * 15) = 0.8, over lists of two items and more.
    assert agreement(of((0, 0, 2.5)), EXPECTED, MASK) == pytest.approx(Agreement((0.8 + 1.0) / 2, 0.5))
    assert agreement(of((0, 3, 2.5)), EXPECTED, MASK) == pytest.approx(Agreement((0.8 + 1.0) / 2, 0.0))


def test_scores_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        agreement(of((0, 1, np.nan)), EXPECTED, MASK)
    with pytest.raises(ArtifactError, match="no golden list has two candidates"):
        agreement(EXPECTED, EXPECTED, np.arange(4) < np.ones((3, 1)))


def test_the_limits_are_allowed_and_what_is_beyond_them_is_not() -> None:
    limits = Limits(0.98, 0.05)
    Agreement(0.98, 0.05).check(limits)
    with pytest.raises(ArtifactError, match=r"rank correlation of int8 scores is 0\.9799, at least 0\.98 is asked"):
        Agreement(0.9799, 0.0).check(limits)
    with pytest.raises(ArtifactError, match=r"the first item of 5\.1% of the lists, at most 5\.0% is allowed"):
        Agreement(1.0, 0.051).check(limits)
    with pytest.raises(ArtifactError, match="rank correlation"):
        Agreement(float("nan"), 0.0).check(limits)


def test_limits_are_read_from_the_metrics_that_they_were_written_to() -> None:
    limits = Limits(0.9, 0.25)
    assert Limits.from_metrics({**limits.to_metrics(), **Agreement(0.5, 0.5).to_metrics()}) == limits
    with pytest.raises(ArtifactError, match="its manifest states no int8_min_correlation"):
        Limits.from_metrics({})
