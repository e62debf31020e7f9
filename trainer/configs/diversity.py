"""Settings of the models that trade relevance for diversity, and their profiles.

Source: Carbonell and Goldstein, SIGIR 1998 (MMR); Chen et al., NeurIPS 2018, arXiv 1709.05135 (DPP).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.configs.base import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityConfig(ModelConfig):
    """The tower of the relevance that is learned.

    Attributes:
        tower: Widths of the tower's hidden layers.
    """

    tower: tuple[int, int] = (80, 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class MmrConfig(DiversityConfig):
    """Maximal marginal relevance.

    Attributes:
        tradeoff: lambda, the weight of relevance against similarity to items above; 1 orders by relevance alone.
    """

    tradeoff: float = 0.7

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.tradeoff > 1:
            raise ValueError(f"tradeoff = {self.tradeoff}: expected at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DppConfig(DiversityConfig):
    """Determinantal point process.

    Attributes:
        theta: Weight of relevance against diversity, which gives alpha = theta / (2 (1 - theta)).
    """

    theta: float = 0.7

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.theta >= 1:
            raise ValueError(f"theta = {self.theta}: expected less than 1")


MMR_PROFILES: Mapping[str, MmrConfig] = {
    "tiny": MmrConfig(
        touch_columns=True, vector_width=16, d=8, context=16, history=10, attention_hidden=(16, 8), tower=(32, 16)
    ),
    "full": MmrConfig(touch_columns=True),
}
DPP_PROFILES: Mapping[str, DppConfig] = {
    "tiny": DppConfig(
        touch_columns=True, vector_width=16, d=8, context=16, history=10, attention_hidden=(16, 8), tower=(32, 16)
    ),
    "full": DppConfig(touch_columns=True),
}
