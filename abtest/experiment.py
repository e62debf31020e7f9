"""Experiment with its arms and epochs, and the allocation by which serving assigns clients.

Source: docs/experiments.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abtest import buckets
from abtest.plan import Plan

INCOMING_ORDER: Final = "incoming_order"
SHUFFLE: Final = "shuffle"
POLICIES: Final = (INCOMING_ORDER, SHUFFLE)
"""Fixed policies of an arm: the order in which the shop sent the items, and a random one."""

# Share of the smaller of two arms below which they are unequal.
_UNEQUAL = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Arm of an experiment: a lineage or a fixed policy (`incoming_order`, `shuffle`)."""

    name: str
    lineage: str | None = None
    policy: str | None = None
    is_control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveExperiment:
    """Allocation by which serving assigns clients to arms.

    Attributes:
        salt: Salt of the layer, the key of the bucket hash.
        table: Arm number of each of the 10,000 buckets; -1 for buckets outside of the experiment.
        sha256: SHA-256 of `table`.
    """

    experiment: str
    layer: str
    salt: str
    epoch: int
    arms: tuple[Arm, ...]
    table: NDArray[np.int16]
    sha256: str

    def assign(self, client_id: str) -> tuple[int, Arm | None]:
        """Return the bucket and the arm of a client; the arm is None outside of the experiment."""
        number = buckets.bucket(client_id, self.salt)
        arm = int(self.table[number])
        return number, None if arm == buckets.UNASSIGNED else self.arms[arm]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Experiment with its plan and status."""

    key: str
    layer: str
    salt: str
    plan: Plan
    spec_hash: str
    status: str
    decision: str | None
    created_ts: int
    arms: tuple[Arm, ...]

    @property
    def control(self) -> Arm:
        """Return the arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.is_control)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Period of constant allocation.

    Attributes:
        coverage: Share of all clients that take part.
        weights: Planned share of each arm among those.
        dealt: Number of buckets of each arm.
        sha256: SHA-256 of the allocation.
    """

    number: int
    start_ts: int
    end_ts: int | None
    coverage: float
    weights: tuple[float, ...]
    dealt: tuple[int, ...]
    sha256: str


def shares_differ(epochs: Sequence[Epoch]) -> bool:
    """Return whether arms have other shares of the buckets in one epoch than in another."""
    dealt = [epoch.dealt for epoch in epochs if sum(epoch.dealt)]
    return any(
        number * sum(dealt[0]) != first * sum(buckets)
        for buckets in dealt[1:]
        for number, first in zip(buckets, dealt[0], strict=True)
    )


def are_unequal(n_control: float, n: float) -> bool:
    """Return whether the clients of two arms, or their shares, are further apart than 60 to 40."""
    return min(n_control, n) < _UNEQUAL * (n_control + n)
