"""Sizes of DIN, and its profiles.

Source: Zhou et al., KDD 2018, arXiv 1706.06978.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.configs.base import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DinConfig(ModelConfig):
    """DIN's attention and tower.

    Attributes:
        tower: Widths of the tower's hidden layers.
    """

    attention: Literal["softmax", "raw"] = "raw"
    tower: tuple[int, int] = (80, 40)


PROFILES: Mapping[str, DinConfig] = {
    "tiny": DinConfig(
        touch_columns=True, vector_width=16, d=8, context=16, history=10, attention_hidden=(16, 8), tower=(32, 16)
    ),
    "full": DinConfig(touch_columns=True),
}
