import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from abtest.moments import Moments, merge

WIDTH = 3
VECTORS = st.lists(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=WIDTH, max_size=WIDTH), max_size=12
).map(lambda rows: np.array(rows, dtype=np.float64).reshape(-1, WIDTH))


def assert_close(left: Moments, right: Moments, scale: float) -> None:
    assert left.n == right.n
    np.testing.assert_allclose(left.mean, right.mean, rtol=1e-12, atol=1e-12 * (1 + scale))
    np.testing.assert_allclose(left.comoment, right.comoment, rtol=1e-9, atol=1e-9 * (1 + scale**2))


def size(*parts: NDArray[np.float64]) -> float:
    return max((float(np.abs(part).max()) for part in parts if part.size), default=0.0)


@settings(max_examples=100, deadline=None)
@given(VECTORS, VECTORS, VECTORS)
def test_merging_is_associative_order_free_and_equals_the_whole(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> None:
    x, y, z = Moments.of(a), Moments.of(b), Moments.of(c)
    scale = size(a, b, c)
    assert_close((x + y) + z, x + (y + z), scale)
    assert_close(x + y, y + x, scale)
    assert_close(merge([x, y, z], WIDTH), Moments.of(np.vstack([a, b, c])), scale)


@settings(max_examples=30, deadline=None)
@given(VECTORS)
def test_nothing_added_changes_nothing(a: NDArray[np.float64]) -> None:
    known, nothing = Moments.of(a), Moments.empty(WIDTH)
    for joined in (known + nothing, nothing + known):
        assert joined.n == known.n
        assert np.array_equal(joined.mean, known.mean)
        assert np.array_equal(joined.comoment, known.comoment)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_variance_survives_a_large_offset(offset: float) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((10_000, 1))
    parts = [Moments.of(part) for part in np.array_split(x + offset, 97)]
    found = merge(parts, 1).covariance
    assert found is not None
    assert found[0, 0] == pytest.approx(float(np.var(x, ddof=1)), rel=1e-6)


def test_covariance_equals_numpy() -> None:
    x = np.random.default_rng(4).lognormal(size=(50, WIDTH))
    found = Moments.of(x).covariance
    assert found is not None
    np.testing.assert_allclose(found, np.cov(x.T), rtol=1e-12)


def test_one_vector_has_no_covariance_and_a_constant_no_variance() -> None:
    assert Moments.of(np.ones((1, WIDTH))).covariance is None
    assert Moments.empty(WIDTH).covariance is None
    constant = Moments.of(np.full((7, WIDTH), 0.1)).covariance
    assert constant is not None
    assert np.array_equal(constant, np.zeros((WIDTH, WIDTH)))
