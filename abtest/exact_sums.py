"""Sums and products of clients' whole numbers, which clients join and leave without a rounding error.

Integers add up to the same numbers in any order, and what is taken off leaves nothing behind. Co-moments of floating-
point numbers do neither.

Source: docs/adr/0022-moments-by-exact-sums.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from abtest.metrics import COLUMNS
from abtest.moments import Moments

WIDTH = len(COLUMNS)
_PAIRS = tuple((row, column) for row in range(WIDTH) for column in range(row, WIDTH))
_ORDERS, _CLICKED_ORDERS = COLUMNS.index("orders"), COLUMNS.index("clicked_orders")


@dataclass(slots=True, kw_only=True)
class ExactSums:
    """Sums of clients.

    Attributes:
        clients: Analysed clients.
        multi_arm: Clients that were seen in another arm too; no sum contains them.
        buyers: Clients with an order.
        clicked_buyers: Clients with an order after a click.
        sums: Sum of each column of `metrics.COLUMNS`.
        products: Sum of the product of each pair of columns, the upper triangle by rows.
    """

    clients: int = 0
    multi_arm: int = 0
    buyers: int = 0
    clicked_buyers: int = 0
    sums: list[int] = field(default_factory=lambda: [0] * WIDTH)
    products: list[int] = field(default_factory=lambda: [0] * len(_PAIRS))

    def add(self, vector: Sequence[int] | None, sign: int = 1) -> None:
        """Add a client, or take it off with `sign` -1; a client of several arms has no vector."""
        if vector is None:
            self.multi_arm += sign
            return
        self.clients += sign
        self.buyers += sign * (vector[_ORDERS] > 0)
        self.clicked_buyers += sign * (vector[_CLICKED_ORDERS] > 0)
        for column, number in enumerate(vector):
            self.sums[column] += sign * number
        for place, (row, column) in enumerate(_PAIRS):
            if vector[row] and vector[column]:
                self.products[place] += sign * vector[row] * vector[column]

    def plus(self, other: "ExactSums", sign: int = 1) -> "ExactSums":
        """Return the sums of both, or the difference with `sign` -1."""
        return ExactSums(
            clients=self.clients + sign * other.clients,
            multi_arm=self.multi_arm + sign * other.multi_arm,
            buyers=self.buyers + sign * other.buyers,
            clicked_buyers=self.clicked_buyers + sign * other.clicked_buyers,
            sums=[own + sign * its for own, its in zip(self.sums, other.sums, strict=True)],
            products=[own + sign * its for own, its in zip(self.products, other.products, strict=True)],
        )

    @property
    def moments(self) -> Moments:
        """Return count, means and co-moments; each number is rounded once."""
        if not self.clients:
            return Moments.empty(WIDTH)
        comoment = np.zeros((WIDTH, WIDTH))
        for (row, column), product in zip(_PAIRS, self.products, strict=True):
            centred = (self.clients * product - self.sums[row] * self.sums[column]) / self.clients
            comoment[row, column] = comoment[column, row] = centred
        return Moments(
            n=self.clients, mean=np.array([number / self.clients for number in self.sums]), comoment=comoment
        )
