"""ARMMT: the fusion unit by hand, the paper's ablations, and every switch under the laws that switches could break."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.armmt import PROFILES, Activation, ArmmtConfig
from trainer.learning.losses import total_loss
from trainer.models import MODELS, Outputs, TensorBatch, Vocabulary, to_torch
from trainer.models.blocks import Dropout
from trainer.models.fusion import Cafu

KNOWN = catalogue()
init, forward = MODELS["armmt"].init, MODELS["armmt"].forward
TINY = replace(PROFILES["tiny"], vocabulary=Vocabulary(item=200, shop=200, brand=200, category=200))

SWITCHES: dict[str, ArmmtConfig] = {
    "default": TINY,
    "pier": replace(TINY, modalities=("text",), cafu=False, aux=False),
    "image_linear": replace(TINY, cafu=False, aux=False),
    "image_cafu": replace(TINY, aux=False),
    "no_vectors": replace(TINY, modalities=()),
    "image_only": replace(TINY, modalities=("image",)),
    "relu": replace(TINY, cafu_activation="relu"),
    "softmax": replace(TINY, cafu_activation="softmax"),
    "shared": replace(TINY, cafu_shared=True),
    "post_norm": replace(TINY, post_norm=True),
    "raw": replace(TINY, attention="raw"),
    "heads": replace(TINY, aux_heads="mm_e_p"),
    "impersonal": replace(TINY, personalised=False, aux_heads="mm_e_p"),
    "impersonal_linear": replace(TINY, personalised=False, cafu=False, aux=False),
    "no_perspectives": replace(TINY, perspectives=False),
    "no_ids": replace(TINY, id_perspective=False),
    "mm_alone": replace(TINY, id_perspective=False, perspectives=False),
    "no_rank": replace(TINY, uses_rank=False),
    "pcvr": replace(TINY, pcvr=True),
    "deep": replace(TINY, field_layers=2, mm_layers=3, global_layers=2),
}

every_switch = pytest.mark.parametrize("config", SWITCHES.values(), ids=SWITCHES.keys())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lists(count: int = 5) -> TensorBatch:
    return to_torch(batch_of([labelled(seed, KNOWN) for seed in range(count)]))


def run(config: ArmmtConfig, batch: TensorBatch) -> Outputs:
    return forward(config, init(config, 0), batch)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softmax"])
def test_cafu_is_equations_3_to_6(activation: Activation) -> None:
    unit = Cafu(5, 4, activation)
    params = {}
    for seed, (name, values) in enumerate(unit.named_parameters()):
        params[name] = values.data.copy_(normal(*values.shape, seed=10 + seed))
    # ceil((M + c) / r) hidden units.
    assert params["first.weight"].shape == (math.ceil((2 + 5) / 4), 2 + 2 + 5)
    features, context = normal(1, 3, 2, 4), normal(1, 5, seed=2)
    present = torch.tensor([[[True, True], [True, False], [False, False]]])
    fused, weights = unit(features, present, context)
    for row in range(3):
        flags = present[0, row]
        held = [features[0, row, m] if flags[m] else torch.zeros(4) for m in range(2)]
        means = torch.stack([vector.sum() / 4 for vector in held])
        inputs = torch.cat([means, flags.float(), context[0]])
        hidden = torch.clamp(params["first.weight"] @ inputs + params["first.bias"], min=0)
        scores = params["second.weight"] @ hidden + params["second.bias"]
        if activation == "sigmoid":
            expected = [1 / (1 + math.exp(-scores[m].item())) for m in range(2)]
        elif activation == "relu":
            expected = [max(scores[m].item(), 0.0) for m in range(2)]
        else:
            total = sum(math.exp(scores[m].item()) for m in range(2) if flags[m]) or 1.0
            expected = [math.exp(scores[m].item()) / total for m in range(2)]
        expected = [weight if flags[m] else 0.0 for m, weight in enumerate(expected)]
        assert weights[0, row].tolist() == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(fused[0, row], expected[0] * held[0] + expected[1] * held[1])


@every_switch
def test_every_switch_is_finite_and_trains_every_weight_it_has(config: ArmmtConfig) -> None:
    batch = lists()
    params = {name: values.requires_grad_() for name, values in init(config, 0).items()}
    outputs = forward(config, params, batch)
    loss, _ = total_loss(outputs, batch, config)
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    silent = {name for name, grad in zip(params, grads, strict=True) if grad is None}
    left_out = {modality for modality in ("image", "text") if modality not in config.modalities}
    if not config.cafu:
        left_out = set()
    # Both modalities of CAFU keep their weights so that one run may leave a modality out, and the tables always exist;
    # nothing else may be idle.
    assert silent == {
        name
        for name in params
        if name.startswith(tuple(f"modalities.{modality}." for modality in left_out))
        or (not config.id_perspective and name in {"rows.item", "rows.shop", "rows.brand", "rank.weight"})
        or (not (config.id_perspective or config.perspectives) and name == "touches.distance.weight")
    }
    assert all(grad is None or bool(torch.isfinite(grad).all()) for grad in grads)
    assert (outputs.click_logit is not None) == config.aux
    assert (outputs.pcvr_logit is not None) == config.pcvr


@every_switch
def test_every_switch_permutes_and_ignores_padding(config: ArmmtConfig) -> None:
    batch = lists()
    n = batch.cand_mask.shape[1]
    rows = torch.from_numpy(np.random.default_rng(1).permutation(n))
    fields = {field: values[:, rows] for field, values in batch._asdict().items() if field.startswith("cand_")}
    params = init(config, 0)
    plain = forward(config, params, batch).logit
    torch.testing.assert_close(
        forward(config, params, batch._replace(**fields)).logit, plain[:, rows], rtol=0, atol=1e-5
    )
    alone = to_torch(batch_of([labelled(0, KNOWN)]))
    size = alone.cand_mask.shape[1]
    torch.testing.assert_close(forward(config, params, alone).logit[0], plain[0, :size], rtol=0, atol=1e-5)


def test_ablations_read_what_table_2_says() -> None:
    batch = lists()
    blind = batch._replace(cand_img_mask=torch.zeros_like(batch.cand_img_mask))
    for name, reads_images in (("pier", False), ("image_linear", True), ("image_cafu", True), ("default", True)):
        config = SWITCHES[name]
        difference = (run(config, batch).logit - run(config, blind).logit).abs().max().item()
        assert (difference > 1e-4) == reads_images, name


def test_without_history_the_personal_parts_are_silent() -> None:
    batch = lists()
    empty = batch._replace(hist_mask=torch.zeros_like(batch.hist_mask))
    params = init(TINY, 0)
    before = forward(TINY, params, empty)
    changed = {
        name: values + 1 if ".attention." in name or "cafu_personal" in name else values
        for name, values in params.items()
    }
    torch.testing.assert_close(forward(TINY, changed, empty).logit, before.logit, rtol=0, atol=1e-6)
    assert not before.aux["cafu_personal"].any()
    assert (forward(TINY, params, batch).logit - before.logit).abs().max() > 1e-4


def test_context_moves_the_weights_of_the_modalities() -> None:
    batch = lists()
    params = init(TINY, 0)
    weights = forward(TINY, params, batch).aux["cafu_item"]
    other = forward(TINY, params, batch._replace(client=batch.client.roll(1, dims=1))).aux["cafu_item"]
    present = torch.stack([batch.cand_img_mask, batch.cand_txt_mask], dim=2)
    assert not weights[~present].any()
    assert (weights[present] > 0).all()
    assert (weights - other).abs().max() > 1e-4


def test_dropout_is_seeded() -> None:
    batch, params = lists(), init(TINY, 0)
    plain = forward(TINY, params, batch).logit
    first, again, other = (
        forward(TINY, params, batch, Dropout(0.3, torch.Generator().manual_seed(seed))).logit for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)


def test_paper_profile_has_the_papers_sizes() -> None:
    config = PROFILES["full"]
    assert (config.d, config.width, config.heads, config.width // config.heads) == (32, 192, 6, 32)
    assert (config.aux_weight, config.context, config.reduction) == (1.0, 64, 4)
    assert (config.field_layers, config.mm_layers, config.global_layers) == (2, 2, 2)
    shapes = {
        name: tuple(values.shape) for name, values in init(replace(config, vocabulary=TINY.vocabulary), 0).items()
    }
    assert shapes["mm.perspective.encoder.layers.1.qkv.weight"] == (3 * 192, 192)
    assert shapes["union.input.weight"] == (192, 4 * 192)
    assert shapes["ids.attention.first.weight"][0] == 64
    assert shapes["mm.cafu_item.first.weight"][0] == math.ceil(66 / 4)


def test_configurations_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="aux needs cafu"):
        replace(TINY, cafu=False)
    with pytest.raises(ValueError, match="id_perspective"):
        replace(TINY, cafu=False, aux=False, id_perspective=False)
    with pytest.raises(ValueError, match="multiple of heads"):
        replace(TINY, heads=5)
    with pytest.raises(TypeError, match="expected PrmConfig"):
        MODELS["prm"].init(TINY, 0)
