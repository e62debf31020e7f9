"""Sizes of SMAR's page ranker and settings of its losses, and its profiles.

Source: SMAR, arXiv 2510.16803; departures are in docs/training.md, "SMAR".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.configs.base import ModelConfig, check_heads

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmarConfig(ModelConfig):
    """Sizes of the page ranker, its teachers, and the losses of pages.

    Attributes:
        width: Width of the encoder.
        heads: Heads of its attention across the items of the page.
        layers: Layers of the encoder.
        teachers: Addresses of the versions that teach the order of their item type, one for each type. Their lineages
            have a `learning.item_type`.
        consistency: alpha, weight of the loss that keeps the order of the items of a type as the teacher has it.
        consistency_form: `listwise` is ListMLE in the teacher's order, `pairwise` a hinge on pairs of its items.
        margin: Difference in scores from which on a pair has no pairwise loss.
        tanh_squash: Whether losses of pages see scores as tanh(z - max z).
        grade_weight: Weight of the loss of graded pages; if it and `anchor_weight` are 0, the topic `annotations` is
            not read.
        grade_passes: Times that the grades of a page are learned.
        anchor_weight: Weight of the loss of pairs of two types whose order follows from grades and the teachers' orders
            together.
    """

    width: int = 432
    heads: int = 6
    layers: int = 2
    teachers: tuple[str, ...] = ()
    consistency: float = 1.0
    consistency_form: Literal["listwise", "pairwise"] = "listwise"
    margin: float = 1.0
    tanh_squash: bool = False
    grade_weight: float = 1.0
    grade_passes: int = 10
    anchor_weight: float = 0.0

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_heads(self.width, self.heads)
        for address in self.teachers:
            if len(address) != 64 or not set(address) <= _HEX:
                raise ValueError(f"teachers: {address[:80]!r}: expected the address of a version, 64 hex digits")
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError("teachers: one version is named twice")

    @property
    def learns_grades(self) -> bool:
        """Return whether a loss reads the grades of people."""
        return self.grade_weight > 0 or self.anchor_weight > 0


# The width gives SMAR about as many weights as ARMMT has in the same profile.
PROFILES: Mapping[str, SmarConfig] = {
    "tiny": SmarConfig(
        touch_columns=True,
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        width=72,
        heads=2,
        layers=1,
    ),
    "full": SmarConfig(touch_columns=True),
}
