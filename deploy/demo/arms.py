"""Arms of a demo's experiment: two that do not learn, and one for each lineage."""

from collections.abc import Sequence
from dataclasses import dataclass

from abtest import experiment
from stream.errors import ConfigError
from trainer.configs import MODEL_PROFILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Arm with its share of the clients, and a fixed policy or a lineage with its model."""

    name: str
    weight: float
    policy: str | None = None
    lineage: str | None = None
    model: str | None = None

    def stored(self) -> experiment.Arm:
        """Return the arm as an experiment stores it; the shuffled one is the control."""
        return experiment.Arm(name=self.name, lineage=self.lineage, policy=self.policy, is_control=self == SHUFFLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedArm(Arm):
    """Arm whose lineage learns."""

    lineage: str
    model: str


SHUFFLE = Arm(name="shuffle", weight=0.2, policy=experiment.SHUFFLE)
INCOMING_ORDER = Arm(name="incoming_order", weight=0.3, policy=experiment.INCOMING_ORDER)
DEFAULT_LINEAGES = ("armmt",)


def learned(lineages: Sequence[str]) -> tuple[LearnedArm, ...]:
    """Return an arm for each lineage; they share the clients that the fixed policies leave.

    Raises:
        ConfigError: If none is named, one is named twice, or one is no model.
    """
    if not lineages:
        raise ConfigError("--lineages names no model")
    for name in lineages:
        if name not in MODEL_PROFILES:
            raise ConfigError(f"--lineages {name}: expected {', '.join(MODEL_PROFILES)}")
        if lineages.count(name) > 1:
            raise ConfigError(f"--lineages names {name} twice")
    weight = (1 - SHUFFLE.weight - INCOMING_ORDER.weight) / len(lineages)
    return tuple(LearnedArm(name=name, weight=weight, lineage=name, model=name) for name in lineages)


def all_arms(lineages: Sequence[str]) -> tuple[Arm, ...]:
    """Return the control, the incoming order and the learned arms."""
    return (SHUFFLE, INCOMING_ORDER, *learned(lineages))
