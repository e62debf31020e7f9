"""ARMMT: multimodal fusion by context, self-attention from several perspectives, and a click task on the fused part.

Source: Advancing Re-Ranking with Multimodal Fusion and Target-Oriented Auxiliary Tasks, arXiv 2408.05751; equation
numbers are the paper's, open points and their defaults are those of MODELS.md 2.4.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.features.schema import NUM_COLUMNS
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import (
    Drop,
    Initialiser,
    Params,
    dropper,
    encoder,
    init_encoder,
    init_mlp,
    linear,
    mlp,
    zero_unless,
)
from trainer.models.config import MODALITIES, Modality, ModelConfig
from trainer.models.fusion import Activation, cafu, init_cafu
from trainer.models.heads import init_pcvr, item_scores, pcvr_scores
from trainer.models.inputs import (
    Inputs,
    Vectors,
    base_features,
    base_width,
    id_interest,
    init_inputs,
    init_interest,
    init_vectors,
    num_width,
    read_inputs,
    read_vectors,
    vector_interest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmmtConfig(ModelConfig):
    """Sizes and switches of ARMMT.

    Attributes:
        width: w, width of all encoders.
        reduction: r of (5).
        field_layers, mm_layers, global_layers: Layers of the encoders of price, sales and ids; of the fused
            modalities; of (12).
        post_norm: Layer norm behind the residual, as in the original transformer.
        cafu: Off: vectors and context go linearly into x_i and Enc_mm is gone (the paper's second ablation).
        cafu_activation: Of the output of (5).
        cafu_shared: One unit for items and personal vectors.
        aux: Whether the click head (14) exists; `aux_heads` adds heads on E and P.
        personalised: Off: no attention over the history at all.
        perspectives: Off: no encoders of price and sales.
        id_perspective: Off: no H^id in (11).
    """

    modalities: tuple[Modality, ...] = MODALITIES
    width: int = 192
    heads: int = 6
    reduction: int = 4
    field_layers: int = 1
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
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not (self.cafu or self.id_perspective):
            raise ValueError("without cafu the vectors go into x_i: that needs id_perspective")
        if self.aux and not self.cafu:
            raise ValueError("the click head stands on H^mm: aux needs cafu")


PROFILES = {
    "tiny": ArmmtConfig(
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
    "paper": ArmmtConfig(),
}

_FIELDS = ("price", "sales")


def _columns(config: ArmmtConfig, name: str) -> list[int]:
    return [column for column, label in enumerate(NUM_COLUMNS[: num_width(config)]) if label.startswith(name)]


def _perspectives(config: ArmmtConfig) -> tuple[str, ...]:
    """Return the names of the parts of (11), in order."""
    fields = _FIELDS if config.perspectives else ()
    return (*fields, *(("mm",) if config.cafu else ()), *(("id",) if config.id_perspective else ()))


def init(config: ArmmtConfig, seed: int) -> dict[str, Tensor]:
    """Return fresh weights; both modalities always have theirs, so that one may be left out of a run."""
    weights = Initialiser(seed)
    init_inputs(weights, config)
    modalities = MODALITIES if config.cafu else config.modalities
    for modality in modalities:
        init_vectors(weights, config, modality)
        if config.personalised:
            init_interest(weights, config, f"attention.{modality}", config.d)
    if config.cafu:
        init_cafu(weights, "cafu_item", config.context, config.reduction)
        if config.personalised and not config.cafu_shared:
            init_cafu(weights, "cafu_personal", config.context, config.reduction)
        fused = config.d * (1 + config.personalised) + config.context
        init_mlp(weights, "fused", (fused, config.width, config.width))
        init_encoder(weights, "enc_mm", config.width, config.mm_layers, post_norm=config.post_norm)
    if config.perspectives:
        for name in _FIELDS:
            weights.linear(f"input_{name}", len(_columns(config, name)), config.width)
            init_encoder(weights, f"enc_{name}", config.width, config.field_layers, post_norm=config.post_norm)
    if config.id_perspective:
        if config.personalised:
            init_interest(weights, config, "attention.id", 3 * config.d)
        appended = () if config.cafu else config.modalities * (1 + config.personalised)
        features = base_width(config, interest=config.personalised, modalities=appended)
        weights.linear("input_id", features + (0 if config.cafu else config.context), config.width)
        init_encoder(weights, "enc_id", config.width, config.field_layers, post_norm=config.post_norm)
    weights.linear("input_global", len(_perspectives(config)) * config.width, config.width)
    init_encoder(weights, "enc_global", config.width, config.global_layers, post_norm=config.post_norm)
    weights.linear("logit", config.width, 1)
    if config.aux:
        weights.linear("click", config.width, 1)
        if config.aux_heads == "mm_e_p":
            weights.linear("click_item", config.d, 1)
            if config.personalised:
                weights.linear("click_personal", config.d, 1)
    init_pcvr(weights, config, config.width)
    return weights.params


def forward(
    config: ArmmtConfig, params: Params, batch: TensorBatch, generator: torch.Generator | None = None
) -> Outputs:
    """Score a batch; a generator turns the dropout of the configuration on.

    `aux` holds the weights of the modalities, `cafu_item` and `cafu_personal` [B,n,M], and further click logits.
    """
    drop = dropper(config.dropout, generator)
    inputs = read_inputs(config, params, batch)
    vectors = {modality: read_vectors(params, batch, modality) for modality in config.modalities}
    if generator is not None and config.dropout > 0:
        vectors = {modality: _drop_modality(config, found, generator) for modality, found in vectors.items()}
    interests = _vector_interests(config, params, inputs, vectors)
    aux: dict[str, Tensor] = {}
    perspectives = _field_perspectives(config, params, inputs, drop)
    click = None
    if config.cafu:
        hidden_mm = _multimodal(config, params, inputs, vectors, interests, aux, drop)
        perspectives["mm"] = hidden_mm
        if config.aux:
            click = item_scores(linear(params, "click", hidden_mm), inputs.mask)
    if config.id_perspective:
        values = linear(params, "input_id", _id_features(config, params, inputs, vectors, interests))
        perspectives["id"] = _encode(config, params, "enc_id", values, inputs, config.field_layers, drop)
    union = torch.cat([perspectives[name] for name in _perspectives(config)], dim=-1)
    values = linear(params, "input_global", union)
    hidden = _encode(config, params, "enc_global", values, inputs, config.global_layers, drop)
    logit = item_scores(linear(params, "logit", hidden), inputs.mask)
    return Outputs(logit, click, pcvr_scores(config, params, hidden, inputs.mask), aux)


def _encode(
    config: ArmmtConfig, params: Params, name: str, values: Tensor, inputs: Inputs, layers: int, drop: Drop
) -> Tensor:
    return encoder(
        params,
        name,
        zero_unless(inputs.mask, values),
        inputs.mask,
        layers=layers,
        heads=config.heads,
        post_norm=config.post_norm,
        drop=drop,
    )


def _id_features(
    config: ArmmtConfig,
    params: Params,
    inputs: Inputs,
    vectors: dict[Modality, Vectors],
    interests: dict[Modality, tuple[Tensor, Tensor]],
) -> Tensor:
    """Return x_i; without CAFU it also takes what CAFU would have read, so that ablations have equal inputs."""
    interest = id_interest(config, params, "attention.id", inputs) if config.personalised else None
    if config.cafu:
        return base_features(inputs, interest, [])
    appended = [found.cand for found in vectors.values()] + [found for found, _ in interests.values()]
    appended.append(inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1))
    return base_features(inputs, interest, appended)


def _field_perspectives(config: ArmmtConfig, params: Params, inputs: Inputs, drop: Drop) -> dict[str, Tensor]:
    """Return H^price and H^sales: encoders over the columns of one field."""
    if not config.perspectives:
        return {}
    found = {}
    for name in _FIELDS:
        values = linear(params, f"input_{name}", inputs.num[..., _columns(config, name)])
        found[name] = _encode(config, params, f"enc_{name}", values, inputs, config.field_layers, drop)
    return found


def _vector_interests(
    config: ArmmtConfig, params: Params, inputs: Inputs, vectors: dict[Modality, Vectors]
) -> dict[Modality, tuple[Tensor, Tensor]]:
    """Return p_i^m and its presence: it takes both the candidate's vector and one behaviour that has one."""
    if not config.personalised:
        return {}
    interests = {}
    for modality, found in vectors.items():
        present = found.cand_mask & found.hist_mask.any(dim=1, keepdim=True)
        interest = vector_interest(config, params, f"attention.{modality}", inputs, found)
        interests[modality] = (zero_unless(present, interest), present)
    return interests


def _multimodal(
    config: ArmmtConfig,
    params: Params,
    inputs: Inputs,
    vectors: dict[Modality, Vectors],
    interests: dict[Modality, tuple[Tensor, Tensor]],
    aux: dict[str, Tensor],
    drop: Drop,
) -> Tensor:
    """Return H^mm of (7) to (10); puts modality weights and extra click logits into `aux`."""
    lists, n = inputs.mask.shape
    nothing = (inputs.category.new_zeros(lists, n, config.d), torch.zeros_like(inputs.mask))
    items = [(vectors[m].cand, vectors[m].cand_mask) if m in vectors else nothing for m in MODALITIES]
    fused, aux["cafu_item"] = _fuse(config, params, "cafu_item", items, inputs)
    parts = [fused]
    if config.personalised:
        name = "cafu_item" if config.cafu_shared else "cafu_personal"
        personal = [interests.get(modality, nothing) for modality in MODALITIES]
        fused, aux["cafu_personal"] = _fuse(config, params, name, personal, inputs)
        parts.append(fused)
    if config.aux and config.aux_heads == "mm_e_p":
        for name, part in zip(("click_item", "click_personal"), parts, strict=False):
            aux[f"{name}_logit"] = item_scores(linear(params, name, part), inputs.mask)
    parts.append(inputs.context[:, None, :].expand(-1, n, -1))
    values = mlp(params, "fused", torch.cat(parts, dim=-1), layers=1, drop=drop)
    values = linear(params, "fused.1", values)
    return _encode(config, params, "enc_mm", values, inputs, config.mm_layers, drop)


def _fuse(
    config: ArmmtConfig, params: Params, name: str, parts: list[tuple[Tensor, Tensor]], inputs: Inputs
) -> tuple[Tensor, Tensor]:
    features = torch.stack([values for values, _ in parts], dim=2)
    present = torch.stack([mask for _, mask in parts], dim=2)
    return cafu(params, name, features, present, inputs.context, activation=config.cafu_activation)


def _drop_modality(config: ArmmtConfig, vectors: Vectors, generator: torch.Generator) -> Vectors:
    """Take a modality away from whole lists, as if all of its vectors were missing."""
    draws = torch.rand((vectors.cand_mask.shape[0], 1), generator=generator, device=vectors.cand.device)
    kept = draws >= config.dropout
    cand_mask, hist_mask = vectors.cand_mask & kept, vectors.hist_mask & kept
    return Vectors(
        cand=zero_unless(cand_mask, vectors.cand),
        cand_mask=cand_mask,
        hist=zero_unless(hist_mask, vectors.hist),
        hist_mask=hist_mask,
    )
