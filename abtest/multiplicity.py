"""p-values adjusted for a whole family of tests.

The functions of statsmodels run the garbage collector, which takes as long as a whole report.

Source: docs/experiments.md; Holm 1979; Benjamini and Hochberg 1995.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm: at most `alpha` of the families have any false finding at that level.

    >>> [round(p, 3) for p in holm([0.043, 0.121, 0.668])]
    [0.129, 0.242, 0.668]

    Raises:
        ValueError: If a number is no p-value.
    """
    p_N = _checked(p_values)
    order_N = np.argsort(p_N, kind="stable")
    return _in_place(order_N, np.maximum.accumulate(p_N[order_N] * np.arange(len(p_N), 0, -1)))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Benjamini and Hochberg: at most `alpha` of the findings are false on average.

    The tests are assumed to be independent or positively dependent.

    >>> [round(p, 4) for p in benjamini_hochberg([0.043, 0.121, 0.668])]
    [0.129, 0.1815, 0.668]

    Raises:
        ValueError: If a number is no p-value.
    """
    p_N = _checked(p_values)
    order_N = np.argsort(p_N, kind="stable")[::-1]
    return _in_place(order_N, np.minimum.accumulate(p_N[order_N] * len(p_N) / np.arange(len(p_N), 0, -1)))


def _checked(p_values: Sequence[float]) -> NDArray[np.float64]:
    p_N = np.array(p_values, dtype=np.float64)
    for number in p_N[~((p_N >= 0.0) & (p_N <= 1.0))]:
        raise ValueError(f"p = {number}: expected 0 to 1")
    return p_N


def _in_place(order_N: NDArray[np.intp], sorted_N: NDArray[np.float64]) -> list[float]:
    adjusted_N = np.empty_like(sorted_N)
    adjusted_N[order_N] = np.minimum(sorted_N, 1.0)
    return [float(p) for p in adjusted_N]
