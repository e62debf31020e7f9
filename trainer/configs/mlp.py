"""Sizes of the MLP baseline, and its profiles.

Source: docs/training.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.configs.base import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig(ModelConfig):
    """The hidden layers, and whether id embeddings are read beside the numbers.

    Attributes:
        hidden: Widths of the hidden layers.
        ids: Whether item, shop, brand and category embeddings are features.
    """

    hidden: tuple[int, int] = (64, 64)
    ids: bool = False


PROFILES: Mapping[str, MlpConfig] = {
    "tiny": MlpConfig(touch_columns=True, vector_width=16, d=8, context=16, history=10, hidden=(32, 32)),
    "full": MlpConfig(touch_columns=True),
}
