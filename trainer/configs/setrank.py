"""Sizes and switches of SetRank, and its profiles.

Source: Pang et al., SIGIR 2020, arXiv 1912.05891.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.configs.base import ModelConfig, check_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRankConfig(ModelConfig):
    """Sizes and form of the attention blocks.

    `uses_rank` adds the paper's ordinal embedding of the incoming order.

    Attributes:
        width: Width of the blocks.
        heads: Heads of their attention.
        layers: Number of blocks.
        block: `msab` lets each item attend to all items; `imsab` lets it attend to inducing points, which attend to
            all items.
        points: Inducing points of an `imsab` block.
    """

    width: int = 438
    heads: int = 6
    layers: int = 2
    block: Literal["msab", "imsab"] = "msab"
    points: int = 20

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_heads(self.width, self.heads)


# The width gives SetRank about as many weights as ARMMT has in the same profile.
PROFILES: Mapping[str, SetRankConfig] = {
    "tiny": SetRankConfig(
        touch_columns=True,
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        width=72,
        heads=2,
        layers=1,
        points=8,
    ),
    "full": SetRankConfig(touch_columns=True),
}
