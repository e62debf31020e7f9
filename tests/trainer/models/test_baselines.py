"""PRM, SetRank, DLCM, DIN and MLP: what sets them apart from each other."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs import mlp, prm
from trainer.configs.base import Modality
from trainer.learning.losses import total_loss
from trainer.models import MODELS, TensorBatch, Vocabulary, to_torch

KNOWN = catalogue()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def batch() -> TensorBatch:
    return to_torch(batch_of([labelled(seed, KNOWN, n=8, depth=8) for seed in range(5)]))


@pytest.mark.parametrize(
    ("name", "sees_others"),
    [("prm", True), ("setrank", True), ("dlcm", True), ("din", False), ("mlp", False), ("armmt", True)],
)
def test_which_models_let_the_items_of_a_list_see_each_other(
    name: str, batch: TensorBatch, *, sees_others: bool
) -> None:
    # The columns by touches compare the items of a list before any model does.
    config = replace(MODELS[name].profiles["tiny"], touch_columns=False)
    params = MODELS[name].init(config, 0)
    mask = batch.cand_mask.clone()
    mask[:, 7] = False
    fewer = MODELS[name].forward(config, params, batch._replace(cand_mask=mask)).logit
    all_items = MODELS[name].forward(config, params, batch).logit
    assert ((fewer[:, :7] - all_items[:, :7]).abs().max().item() > 1e-4) == sees_others


def test_click_trained_personal_vector_gets_no_gradient_of_the_list_loss(batch: TensorBatch) -> None:
    config = replace(prm.PROFILES["tiny"], personal="click", vocabulary=Vocabulary(item=200))
    params = {name: values.requires_grad_() for name, values in MODELS["prm"].init(config, 0).items()}
    tower = [values for name, values in params.items() if name.startswith("personal.")]
    outputs = MODELS["prm"].forward(config, params, batch)
    main, _ = total_loss(outputs._replace(click_logit=None), batch, config)
    assert torch.autograd.grad(main, tower, allow_unused=True, retain_graph=True) == (None,) * len(tower)
    both, parts = total_loss(outputs, batch, config)
    assert parts["aux"].item() > 0
    assert all(grad.any() for grad in torch.autograd.grad(both, tower))


def test_joint_personal_vector_is_trained_by_the_list_loss(batch: TensorBatch) -> None:
    config = prm.PROFILES["tiny"]
    params = {name: values.requires_grad_() for name, values in MODELS["prm"].init(config, 0).items()}
    outputs = MODELS["prm"].forward(config, params, batch)
    assert outputs.click_logit is None
    main, _ = total_loss(outputs, batch, config)
    (gradient,) = torch.autograd.grad(main, [params["personal.hidden.layers.0.weight"]])
    assert gradient.any()


@pytest.mark.parametrize("ids", [False, True])
def test_mlp_reads_ids_only_when_told(batch: TensorBatch, *, ids: bool) -> None:
    config = replace(mlp.PROFILES["tiny"], ids=ids)
    params = MODELS["mlp"].init(config, 0)
    moved = batch._replace(cand_id=torch.where(batch.cand_mask.unsqueeze(-1), batch.cand_id + 1, 0))
    difference = (
        (MODELS["mlp"].forward(config, params, moved).logit - MODELS["mlp"].forward(config, params, batch).logit)
        .abs()
        .max()
    )
    assert (difference.item() > 1e-4) == ids


def test_din_weighs_behaviours_without_normalising(batch: TensorBatch) -> None:
    din = MODELS["din"]
    config = din.profiles["tiny"]
    assert config.attention == "raw"
    params = din.init(config, 0)
    normalised = din.forward(replace(config, attention="softmax"), params, batch).logit
    assert (din.forward(config, params, batch).logit - normalised).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["prm", "setrank", "dlcm", "din", "mlp", "mmr", "dpp"])
def test_baselines_read_images_only_when_told(name: str, batch: TensorBatch) -> None:
    blind = batch._replace(cand_img_mask=torch.zeros_like(batch.cand_img_mask))
    cases: list[tuple[tuple[Modality, ...], bool]] = [((), False), (("text",), False), (("text", "image"), True)]
    for modalities, reads in cases:
        config = replace(MODELS[name].profiles["tiny"], modalities=modalities)
        params = MODELS[name].init(config, 0)
        plain, without = (MODELS[name].forward(config, params, lists).logit for lists in (batch, blind))
        assert ((plain - without).abs().max().item() > 1e-4) == reads
