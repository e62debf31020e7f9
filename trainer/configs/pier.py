"""Sizes of PIER's first pass, candidate orders and evaluator, and its profiles.

Source: Shi et al., KDD 2023, PIER: Permutation-Level Interest-Based End-to-End Re-ranking Framework in E-commerce,
arXiv 2302.03487.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from stream.schemas.events import MAX_PAGES
from trainer.configs.armmt import ArmmtConfig
from trainer.configs.base import ModelConfig, check_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class PierConfig(ModelConfig):
    """Sizes of the first pass, of the candidate orders and of the evaluator.

    Attributes:
        tower: Widths of the hidden layers of the first pass, which is DIN's tower.
        places: s, first places of the page, in which candidate orders differ; the items behind keep the order of the
            first pass.
        permuted: Top items of the first pass all of whose orders are candidates.
        beams: Orders that the beam search over these places keeps.
        extensions: Items by which the beam search goes on from an order.
        orders: K, candidate orders that the evaluator scores: those most like the client's clicked pages.
        pages: Newest clicked pages of the client that are read, at most 5.
        hash_bits: Random hyperplanes of the hash that compares orders with pages.
        evaluator: `ocpm` is PIER's own, and `armmt` is ARMMT over the items of the page, with the place in the page as
            their rank: our reading of the ARMMT paper, which builds on PIER.
        width: Width of the encoders of the evaluator `armmt`; its heads and layers follow.
        heads: Heads of these encoders.
        layers: Layers of these encoders.
        contrast: Weight of the contrast between the K orders nearest to the pages and the K farthest ones, of the
            evaluator `ocpm`; 0 saves the time that it takes.
        evaluator_weight: Weight of the evaluator's loss.
    """

    attention: Literal["softmax", "raw"] = "raw"
    tower: tuple[int, int] = (80, 40)
    places: int = 6
    permuted: int = 5
    beams: int = 20
    extensions: int = 8
    orders: int = 20
    pages: int = 5
    hash_bits: int = 64
    evaluator: Literal["ocpm", "armmt"] = "ocpm"
    width: int = 192
    heads: int = 6
    layers: int = 2
    contrast: float = 0.01
    evaluator_weight: float = 1.0

    @property
    def num_pages(self) -> int:
        """Return the number of clicked pages of the client that the model reads."""
        return self.pages

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_heads(self.width, self.heads)
        if self.pages > MAX_PAGES:
            raise ValueError(f"pages = {self.pages}: expected at most {MAX_PAGES}, a profile holds no more")
        if self.permuted > self.places:
            raise ValueError(f"permuted = {self.permuted}: expected at most places = {self.places}")
        if self.permuted > _MAX_PERMUTED:
            raise ValueError(f"permuted = {self.permuted}: expected at most {_MAX_PERMUTED}, all orders are candidates")

    def armmt(self) -> ArmmtConfig:
        """Return the configuration of the evaluator `armmt`: that of ARMMT with the settings that all models share."""
        shared = {each.name: getattr(self, each.name) for each in fields(ModelConfig)}
        own = {
            "modalities": self.modalities,
            "attention": "softmax",
            "uses_rank": True,
            "aux": False,
            "pcvr": False,
            "width": self.width,
            "heads": self.heads,
            "field_layers": self.layers,
            "mm_layers": self.layers,
            "global_layers": self.layers,
        }
        return ArmmtConfig(**{**shared, **own})


LIKELIHOOD_DECIMALS = 9
"""Decimals of the logarithms by which likelihoods of orders are compared: what lies behind them is rounding."""
_MAX_PERMUTED = 6
_PAGE_TWELFTHS = (6, 6, 4, 4, 3)


def page_twelfths(num: int) -> list[int]:
    """Return the weights of a client's clicked pages, the newest first, in twelfths: 1/2, 1/2, 1/3, 1/3, 1/4.

    Later pages have the last weight. Whole numbers add up to the same distance in every runtime.

    Source: Shi et al. 2023, section 3.3.
    """
    return [_PAGE_TWELFTHS[min(page, len(_PAGE_TWELFTHS) - 1)] for page in range(num)]


PROFILES: Mapping[str, PierConfig] = {
    "tiny": PierConfig(
        touch_columns=True,
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        tower=(32, 16),
        places=5,
        permuted=4,
        beams=8,
        extensions=6,
        orders=8,
        hash_bits=32,
        width=32,
        heads=2,
        layers=1,
    ),
    "full": PierConfig(touch_columns=True),
}
