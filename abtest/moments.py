"""Count, mean vector and centred co-moments of clients' vectors.

The tests need no other numbers. Moments merge without loss of digits, where sums of squares of large values would
cancel.

Source: docs/experiments.md; Chan, Golub, LeVeque 1979.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Share of a sum of squares that the rounding of its terms can take or add.
_SQUARES = 1e-12
# Share of a number below which its last digits are rounding.
_DIGITS = 64 * sys.float_info.epsilon
# Share above which rounding does not matter.
_CERTAIN = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Moments of n vectors of K numbers.

    Shapes: `mean` (K,); `comoment` (K, K), the sum of outer products of deviations from the mean.
    """

    n: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]

    @classmethod
    def empty(cls, width: int) -> Self:
        """Return the moments of no vectors, the neutral element of `+`."""
        return cls(n=0, mean=np.zeros(width), comoment=np.zeros((width, width)))

    @classmethod
    def of(cls, x_NK: NDArray[np.float64]) -> Self:
        """Return the moments of N vectors; they are not finite if a number or a square is not."""
        if not len(x_NK):
            return cls.empty(x_NK.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            mean_K = x_NK.mean(axis=0)
            centred_NK = x_NK - mean_K
            # The mean is rounded; subtracting the residual gives a constant column no variance.
            residual_K = centred_NK.mean(axis=0)
            centred_NK -= residual_K
            return cls(n=len(x_NK), mean=mean_K + residual_K, comoment=centred_NK.T @ centred_NK)

    def __add__(self, other: Self) -> Self:
        """Return the moments of both sets together; associative and commutative up to rounding."""
        if not self.n or not other.n:
            return other if not self.n else self
        n = self.n + other.n
        shift_K = other.mean - self.mean
        return type(self)(
            n=n,
            mean=self.mean + shift_K * (other.n / n),
            comoment=self.comoment + other.comoment + np.outer(shift_K, shift_K) * (self.n * other.n / n),
        )

    def spread(self, *weights: tuple[int, float]) -> tuple[float, str | None]:
        """Return the sum of squared deviations of a weighted sum of columns, and the reason if there is none.

        What rounding alone can give is 0, so that a constant has no variance. No vectors have a negative sum of
        squares, or columns that vary more together than each of them does.

        >>> part = Moments(n=3, mean=np.array([2.0, 1.0]), comoment=np.array([[2.0, 3.0], [3.0, 2.0]]))
        >>> part.spread((0, 1.0)), part.spread((0, 1.0), (1, -2.0))
        ((2.0, None), (nan, 'impossible_moments'))

        Args:
            weights: Column and its weight, each column once.

        Returns:
            The sum, NaN with a reason: `not_finite` or `impossible_moments`.
        """
        if (certain := self._certain(weights)) is not None:
            return certain, None
        item, total, terms, size, possible = self.comoment.item, 0.0, 0.0, 0.0, self.n >= 0
        before: list[tuple[int, float, float, float]] = []
        for column, weight in weights:
            level, own = abs(weight * self.mean.item(column)), weight * weight * item(column, column)
            if own < 0.0:
                possible &= own >= -_SQUARES * self.n * level * level
            for near, factor, other_own, other_level in before:
                shared = 2.0 * weight * factor * item(column, near)
                if shared * shared > 4.0 * own * other_own:
                    # Twice the geometric mean of both, and what rounding of their squares can add.
                    most = 2.0 * math.sqrt(max(own, 0.0)) * math.sqrt(max(other_own, 0.0))
                    possible &= abs(shared) <= (1.0 + _SQUARES) * most + _SQUARES * self.n * level * other_level
                total += shared
                terms += abs(shared)
            before.append((column, weight, own, level))
            total += own
            terms += abs(own)
            size += level
        square = self.n * size * size
        if not math.isfinite(terms + square):
            return math.nan, "not_finite"
        if not possible or total < -_SQUARES * (terms + square):
            return math.nan, "impossible_moments"
        rounding = square * _DIGITS * _DIGITS + (terms * _DIGITS if len(weights) > 1 else 0.0)
        return (0.0 if total <= rounding else total), None

    def _certain(self, weights: Sequence[tuple[int, float]]) -> float | None:
        """Return the sum for one or two columns, or None where rounding or impossible moments may matter.

        Most estimates end here, at a third of the time.
        """
        item, mean = self.comoment.item, self.mean.item
        if len(weights) == 1:
            column, weight = weights[0]
            total, size = weight * weight * item(column, column), weight * mean(column)
        elif len(weights) == 2:
            (first, one), (second, two) = weights
            own, other, shared = one * one * item(first, first), two * two * item(second, second), item(second, first)
            shared *= one * two
            total, size = own + 2.0 * shared + other, abs(one * mean(first)) + abs(two * mean(second))
            if not (shared * shared <= own * other and 0.0 < _CERTAIN * (own + other) < total):
                return None
        else:
            return None
        return total if self.n > 0 and self.n * size * size * _CERTAIN * _CERTAIN < total < math.inf else None

    @property
    def covariance(self) -> NDArray[np.float64] | None:
        """Return the sample covariance, or None for fewer than two vectors."""
        return self.comoment / (self.n - 1) if self.n > 1 else None


def merge(parts: Sequence[Moments], width: int) -> Moments:
    """Return the moments of all parts together.

    >>> parts = [Moments.of(np.array([[1.0], [3.0]])), Moments.of(np.array([[5.0]]))]
    >>> whole = merge(parts, 1)
    >>> whole.n, whole.mean.tolist(), whole.comoment.tolist()
    (3, [3.0], [[8.0]])
    """
    return reduce(lambda left, right: left + right, parts, Moments.empty(width))
