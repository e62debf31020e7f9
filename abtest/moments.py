"""Count, mean vector and centred co-moments of clients' vectors.

The tests need no other numbers. Moments merge without loss of digits, where sums of squares of large values would
cancel.

Source: docs/experiments.md; Chan, Golub, LeVeque 1979.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray


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
        """Return the moments of N vectors."""
        if not len(x_NK):
            return cls.empty(x_NK.shape[1])
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
