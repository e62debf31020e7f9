"""The gate of int8 graphs: how far their order of the golden sessions may differ from that in full precision.

Rounding to 8 bits depends on the processor, so a server passes the gate again before it uses an int8 graph.

Source: docs/training.md, "Graphs".
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.learning.list_measures import order_changes

CORRELATION: Final = "int8_correlation"
CHURN: Final = "int8_churn"
MIN_CORRELATION: Final = "int8_min_correlation"
MAX_CHURN: Final = "int8_max_churn"
"""Names in the metrics of a version's manifest: the trainer's two numbers, and the limits that it was given."""


class Limits(NamedTuple):
    """Limits of the gate.

    Attributes:
        min_correlation: Least mean rank correlation.
        max_churn: Largest share of lists whose first item changes.
    """

    min_correlation: float
    max_churn: float

    def to_metrics(self) -> dict[str, float]:
        """Return the limits as they stand in a manifest."""
        return {MIN_CORRELATION: self.min_correlation, MAX_CHURN: self.max_churn}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> "Limits":
        """Return the limits of a manifest.

        Raises:
            ArtifactError: If it states none.
        """
        try:
            return cls(metrics[MIN_CORRELATION], metrics[MAX_CHURN])
        except KeyError as error:
            raise ArtifactError(f"its manifest states no {error.args[0]}") from error


class Agreement(NamedTuple):
    """Agreement of two orders of the same lists.

    Attributes:
        correlation: Mean rank correlation.
        churn: Share of lists whose first item changes.
    """

    correlation: float
    churn: float

    def to_metrics(self) -> dict[str, float]:
        """Return the numbers as they stand in a manifest."""
        return {CORRELATION: self.correlation, CHURN: self.churn}

    def check(self, limits: Limits) -> None:
        """Compare the numbers with the limits.

        Raises:
            ArtifactError: If one of them is beyond its limit.
        """
        if not self.correlation >= limits.min_correlation:
            raise ArtifactError(
                f"the rank correlation of int8 scores is {self.correlation:.4f}, at least {limits.min_correlation:g} is"
                " asked"
            )
        if not self.churn <= limits.max_churn:
            raise ArtifactError(
                f"int8 scores change the first item of {self.churn:.1%} of the lists, at most {limits.max_churn:.1%} is"
                " allowed"
            )


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32], mask: NDArray[np.bool_]) -> Agreement:
    """Return the agreement of int8 scores [B,n] with those in full precision, over lists of two items and more.

    Raises:
        ArtifactError: If there is no such list, or a score is not finite.
    """
    if not np.isfinite(found[mask]).all():
        raise ArtifactError("int8 scores hold NaN or infinity")
    correlation, changes = order_changes(found.astype(np.float64), expected.astype(np.float64), mask)
    defined = ~np.isnan(correlation)
    if not defined.any():
        raise ArtifactError("no golden list has two candidates, so int8 scores cannot be compared")
    return Agreement(float(correlation[defined].mean()), float(changes[defined].mean()))
