"""The base of all model configurations, and the architecture hash of a manifest."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")
PLACE_STEP = 1e-4
"""Difference between the scores of two places of a chosen order, so that items of equal relevance keep it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Rows of the four id tables, the padding row 0 and the cold row 1 included.

    Attributes:
        item: Rows of the table of items.
        shop: Rows of the table of shops.
        brand: Rows of the table of brands.
        category: Rows of the table of categories.
    """

    item: int = 10_000
    shop: int = 10_000
    brand: int = 10_000
    category: int = 10_000

    def __post_init__(self) -> None:
        for declared in fields(self):
            if (rows := getattr(self, declared.name)) < 2:
                raise ValueError(f"vocabulary.{declared.name} = {rows}: expected at least 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Settings that all models share.

    Attributes:
        vocabulary: Sizes of the id tables.
        vector_width: D, width of the catalogue's image and text vectors.
        d: Width of id embeddings and projected vectors.
        context: c, width of the context.
        history: L, behaviours kept per list.
        max_rank: Ranks beyond it share one embedding.
        feature_schema: Number of the feature schema whose columns are read.
        num_columns: Numbers of a candidate in data of another form; 0 = the columns of the feature schema.
        uses_rank: Whether `rank_in` and the columns that depend on it are read.
        touch_columns: Whether columns that compare a candidate with the touched items of its list are inputs.
        modalities: Vectors that are read.
        attention: Weights of behaviours: a masked softmax, or DIN's un-normalised weights.
        attention_hidden: Widths of the attention's two hidden layers.
        main_loss: List softmax (16), or binary cross-entropy per item.
        clicked_weight: Weight in the main loss of a list with clicks and without an order, where a list with an order
            has 1; 0 = only orders teach.
        aux_weight: lambda of (17).
        pcvr: Whether the head for probabilities exists.
        pcvr_weight: Weight of that head's loss.
        pcvr_delayed: Correction of that head for orders that come after the click window: `fnw` weighs clicks and
            orders so that the head estimates the chance of an order at any time, `none` leaves it too low.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    vector_width: int = 64
    d: int = 32
    context: int = 64
    history: int = 50
    max_rank: int = 64
    feature_schema: Literal[1, 2] = 2
    num_columns: int = 0
    uses_rank: bool = True
    touch_columns: bool = False
    modalities: tuple[Modality, ...] = ("text",)
    attention: Literal["softmax", "raw"] = "softmax"
    attention_hidden: tuple[int, int] = (64, 16)
    main_loss: Literal["softmax", "bce"] = "softmax"
    clicked_weight: float = 0.0
    aux_weight: float = 1.0
    pcvr: bool = False
    pcvr_weight: float = 1.0
    pcvr_delayed: Literal["none", "fnw"] = "none"

    @property
    def num_pages(self) -> int:
        """Return the number of clicked pages of the client that the model reads."""
        return 0

    def spaces_read(self, image_space: str | None, text_space: str | None) -> tuple[str | None, str | None]:
        """Return the vector spaces of images and texts, None for a modality that the model does not read."""
        return image_space if "image" in self.modalities else None, text_space if "text" in self.modalities else None

    def __post_init__(self) -> None:
        if len(set(self.modalities)) != len(self.modalities) or not set(self.modalities) <= set(MODALITIES):
            raise ValueError(f"modalities = {self.modalities}: expected a subset of {MODALITIES}, each once")
        for declared in fields(self):
            value = getattr(self, declared.name)
            numbers = value if isinstance(value, tuple) else (value,)
            least = 0 if declared.name == "num_columns" else 1
            if any(isinstance(number, int) and not isinstance(value, bool) and number < least for number in numbers):
                raise ValueError(f"{declared.name} = {value}: expected at least {least}")
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise ValueError(f"{declared.name} = {value}: expected 0 or more")


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless the width splits into equal heads."""
    if width % heads:
        raise ValueError(f"width = {width}: expected a multiple of heads = {heads}")


LATER = {
    "feature_schema": 1,
    "touch_columns": False,
    "clicked_weight": 0.0,
    "pcvr_delayed": "none",
    "grade_passes": 10,
    "anchor_weight": 0.0,
}
"""Settings that came after lineages were registered, with the value that those lineages have: no part of their hash."""


def architecture_hash(name: str, config: ModelConfig) -> str:
    """Return the sha256 (64 hex digits) of a model's name and configuration without the sizes of the id tables.

    >>> architecture_hash("prm", ModelConfig()) == architecture_hash("prm", ModelConfig(d=32))
    True
    """
    values = {key: value for key, value in asdict(config).items() if key not in LATER or value != LATER[key]}
    # Tables may grow while a lineage lives, so all sizes count as the default ones.
    values["vocabulary"] = asdict(Vocabulary())
    text = json.dumps({"model": name, "config": values}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
