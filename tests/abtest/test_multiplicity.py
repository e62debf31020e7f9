"""Adjusted p-values against statsmodels."""

import math
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from abtest.multiplicity import benjamini_hochberg, holm

METHODS = [(holm, "holm"), (benjamini_hochberg, "fdr_bh")]


@pytest.mark.parametrize(("adjust", "method"), METHODS)
@given(p_values=st.lists(st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-300, 0.01, 0.5, 1.0])), max_size=30))
def test_adjusted_p_values_equal_statsmodels(
    adjust: Callable[[list[float]], list[float]], method: str, p_values: list[float]
) -> None:
    # The function collects garbage at each call, which takes a second in a process with many objects.
    with patch("gc.collect"):
        expected = list(multipletests(p_values, method=method)[1]) if p_values else []
    assert adjust(p_values) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("adjust", "_method"), METHODS)
@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1, math.inf])
def test_what_is_no_p_value_is_refused(adjust: Callable[[list[float]], list[float]], _method: str, p: float) -> None:
    with pytest.raises(ValueError, match=f"p = {p}"):
        adjust([0.1, p])
