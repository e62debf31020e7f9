"""Sizes and switches of ARMMT, and its profiles.

Source: Advancing Re-Ranking with Multimodal Fusion and Target-Oriented Auxiliary Tasks, arXiv 2408.05751; equation
numbers are the paper's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.configs.base import MODALITIES, Modality, ModelConfig, check_heads

Activation = Literal["sigmoid", "relu", "softmax"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmmtConfig(ModelConfig):
    """Sizes and switches of ARMMT.

    Attributes:
        width: w, width of all encoders.
        heads: Heads of all encoders.
        reduction: r of (5).
        field_layers: Layers of the encoders of price, sales and ids.
        mm_layers: Layers of the encoder of the fused modalities (10).
        global_layers: Layers of the encoder of (12).
        post_norm: Layer norm behind the residual, as in the original transformer.
        cafu: Off: vectors and context go linearly into x_i and Enc_mm is gone (the paper's second ablation).
        cafu_activation: Activation of the output of (5).
        cafu_shared: One unit for items and personal vectors.
        aux: Whether the click head (14) exists.
        aux_heads: Click heads: on H^mm, or on E and P too.
        personalised: Off: no attention over the history at all.
        perspectives: Off: no encoders of price and sales.
        id_perspective: Off: no H^id in (11).
    """

    modalities: tuple[Modality, ...] = MODALITIES
    width: int = 192
    heads: int = 6
    reduction: int = 4
    field_layers: int = 2
    mm_layers: int = 2
    global_layers: int = 2
    post_norm: bool = False
    cafu: bool = True
    cafu_activation: Activation = "sigmoid"
    cafu_shared: bool = False
    aux: bool = True
    aux_heads: Literal["mm", "mm_e_p"] = "mm"
    personalised: bool = True
    perspectives: bool = True
    id_perspective: bool = True

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        check_heads(self.width, self.heads)
        if self.num_columns and self.perspectives:
            raise ValueError(
                "perspectives = True: prices and sales are columns of the feature schema, num_columns needs 0"
            )
        if not (self.cafu or self.id_perspective):
            raise ValueError("id_perspective = False: without cafu the vectors go into x_i, which id_perspective reads")
        if self.aux and not self.cafu:
            raise ValueError("aux = True: the click head stands on H^mm, so aux needs cafu")


PROFILES: Mapping[str, ArmmtConfig] = {
    "tiny": ArmmtConfig(
        touch_columns=True,
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        width=32,
        heads=2,
        field_layers=1,
        mm_layers=1,
        global_layers=1,
    ),
    "full": ArmmtConfig(touch_columns=True),
}

ABLATIONS: Mapping[str, Mapping[str, object]] = {
    "no-image": {"modalities": "text", "cafu": False, "aux": False},
    "no-cafu": {"cafu": False, "aux": False},
    "no-aux": {"aux": False},
}
"""The rows of the paper's table of ablations: each lacks what it names and what is built on that."""
