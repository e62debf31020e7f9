"""Sizes and switches of PRM, and its profiles.

Source: Pei et al., RecSys 2019, arXiv 1904.06813.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.configs.base import ModelConfig, check_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmConfig(ModelConfig):
    """Sizes of the encoder, and the source of the personal vector.

    Attributes:
        width: w, width of the encoder.
        heads: Heads of the encoder.
        layers: Layers of the encoder.
        post_norm: Layer norm behind the residual, as in the original transformer.
        personal: `joint` trains the DIN tower behind pv with the list loss; `click` trains it by its own click head
            and lets no gradient of the list loss through (the original trains that model first).
        tower: Widths of the tower; pv is its last hidden layer.
    """

    width: int = 432
    heads: int = 6
    layers: int = 2
    post_norm: bool = False
    personal: Literal["joint", "click"] = "joint"
    tower: tuple[int, int] = (80, 40)

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_heads(self.width, self.heads)


# The width gives PRM as many weights as ARMMT has in the same profile.
PROFILES: Mapping[str, PrmConfig] = {
    "tiny": PrmConfig(
        touch_columns=True,
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        width=72,
        heads=2,
        layers=1,
        tower=(32, 16),
    ),
    "full": PrmConfig(touch_columns=True),
}
