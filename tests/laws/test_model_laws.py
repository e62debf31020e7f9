"""Laws that every model of the registry obeys."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.lists import WIDTH, batch_of, catalogue, id_maps, labelled, served
from trainer.evaluation.metrics import list_auc, ranks
from trainer.features import Batch, Examples, SessionExample, collate, example_from_request, example_from_session
from trainer.learning.losses import total_loss
from trainer.models import MODELS, ModelConfig, Outputs, TensorBatch, Vocabulary, golden_scores, shown_pages, to_torch

KNOWN = catalogue()
every_model = pytest.mark.parametrize("name", MODELS)
with_images = pytest.mark.parametrize("name", ["armmt"])
IN_ORDER = {"dlcm"}
"""Models that read the list as a sequence, in the incoming order."""


def assert_close(actual: Tensor | list[Tensor], expected: Tensor | list[Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5)


@pytest.fixture(autouse=True)
def _one_deterministic_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def tiny(name: str) -> ModelConfig:
    vocabulary = Vocabulary(item=200, shop=200, brand=200, category=200)
    return replace(MODELS[name].profiles["tiny"], vocabulary=vocabulary)


def weights(name: str, config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Fresh weights, moved off their zero biases so that no part is silent."""
    params = MODELS[name].init(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for weight, values in params.items():
        values.add_(torch.randn(values.shape, generator=generator), alpha=0.05)
        if weight.startswith("rows.") or weight in {"rank.weight", "words.token.weight"}:
            values[0] = 0
    return params


def scores(name: str, config: ModelConfig, params: dict[str, Tensor], batch: Batch) -> Outputs:
    return MODELS[name].forward(config, params, to_torch(batch))


@cache
def example(seed: int) -> SessionExample:
    return labelled(seed, KNOWN)


TIED = {4, 8, 10}
"""Lists in which DPP or MMR has two gains within 1e-5: which item comes first is the rounding of its relevance."""


def lists(count: int) -> Batch:
    seeds = (seed for seed in itertools.count() if seed not in TIED)
    return batch_of([example(seed) for seed in itertools.islice(seeds, count)])


def tensors(outputs: Outputs) -> list[Tensor]:
    return [values for values in (outputs.logit, outputs.click_logit, outputs.pcvr_logit) if values is not None]


def losses(
    name: str, config: ModelConfig, params: dict[str, Tensor], batch: TensorBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss as the learner computes it, and its parts."""
    return total_loss(MODELS[name].forward(config, params, batch, shown=shown_pages(config, batch)), batch, config)


def gradients(name: str, config: ModelConfig, params: dict[str, Tensor], batch: Batch) -> tuple[Tensor, list[Tensor]]:
    leaves = {weight: values.clone().requires_grad_() for weight, values in params.items()}
    loss, _ = losses(name, config, leaves, to_torch(batch))
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), [torch.zeros(()) if grad is None else grad for grad in found]


def train(name: str, config: ModelConfig, batch: TensorBatch, steps: int, seed: int) -> dict[str, Tensor]:
    params = {weight: values.requires_grad_() for weight, values in MODELS[name].init(config, seed).items()}
    optimizer = torch.optim.Adagrad(params.values(), lr=0.07, initial_accumulator_value=0.1)
    for _ in range(steps):
        step(name, config, params, batch, optimizer)
    return {weight: values.detach() for weight, values in params.items()}


def step(
    name: str, config: ModelConfig, params: dict[str, Tensor], batch: TensorBatch, optimizer: torch.optim.Optimizer
) -> float:
    loss, parts = losses(name, config, params, batch)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return parts["main"].item()


def poisoned(batch: Batch, candidates: int, behaviours: int) -> Batch:
    """The batch with more padding, which holds NaN, wild slots and labels."""
    grown = {}
    for field, column in batch._asdict().items():
        axis_1 = candidates if field.startswith("cand_") or field in {"click", "conv", "money", "position"} else 0
        axis_1 = behaviours if field.startswith("hist_") else axis_1
        if column.ndim == 1 or axis_1 == 0:
            grown[field] = column
            continue
        shape = (column.shape[0], axis_1, *column.shape[2:])
        filler = np.nan if column.dtype.kind == "f" else (column.dtype.kind != "b") * 3
        padding = np.full(shape, filler, dtype=column.dtype)
        padding = np.zeros(shape, dtype=bool) if field in {"cand_mask", "hist_mask"} else padding
        padding = np.ones(shape, dtype=bool) if field.endswith(("img_mask", "txt_mask")) else padding
        grown[field] = np.concatenate([column, padding], axis=1)
    return Batch(**grown)


@every_model
def test_padding_changes_nothing(name: str) -> None:
    config = replace(tiny(name), pcvr=True)
    params = weights(name, config)
    batch = lists(6)
    n = batch.cand_mask.shape[1]
    wide = poisoned(batch, 4, 3)
    for plain, padded in zip(
        tensors(scores(name, config, params, batch)), tensors(scores(name, config, params, wide)), strict=True
    ):
        assert_close(padded[:, :n], plain)
        assert torch.equal(padded[:, n:], torch.zeros_like(padded[:, n:]))
    loss, grads = gradients(name, config, params, batch)
    wide_loss, wide_grads = gradients(name, config, params, wide)
    assert_close(wide_loss, loss)
    assert_close(wide_grads, grads)


@every_model
def test_permuting_candidates_with_all_attributes_permutes_scores(name: str) -> None:
    config = tiny(name)
    params = weights(name, config)
    batch = lists(6)
    rows = np.random.default_rng(3).permutation(batch.cand_mask.shape[1])
    shuffled = batch._replace(
        **{field: column[:, rows] for field, column in batch._asdict().items() if field.startswith("cand_")}
    )
    assert_close(scores(name, config, params, shuffled).logit, scores(name, config, params, batch).logit[:, rows])


def by_item(name: str, config: ModelConfig, params: dict[str, Tensor], ranks: list[int]) -> dict[str, float]:
    request = served(4, KNOWN, n=20, depth=12)
    example = example_from_request(
        query_id=request.query_id,
        item_ids=request.item_ids,
        items=request.items,
        context=request.context,
        history=request.history,
        category=request.category,
        catalogue=KNOWN,
        rank_in=ranks,
    )
    logit = scores(name, config, params, batch_of([example])).logit[0]
    return dict(zip(example.item_ids, logit.tolist(), strict=True))


@every_model
def test_ranks_matter_exactly_where_they_are_used(name: str) -> None:
    ranks = list(range(1, 21))
    used = tiny(name)
    params = weights(name, used)
    forward, backward = by_item(name, used, params, ranks), by_item(name, used, params, ranks[::-1])
    assert max(abs(forward[item] - backward[item]) for item in forward) > 1e-3
    if name in IN_ORDER:
        with pytest.raises(ValueError, match="uses_rank = False"):
            replace(used, uses_rank=False)
        return
    free = replace(used, uses_rank=False)
    params = weights(name, free)
    forward, backward = by_item(name, free, params, ranks), by_item(name, free, params, ranks[::-1])
    assert backward == pytest.approx(forward, abs=1e-5)


def without(batch: Batch, *fields: str) -> Batch:
    return batch._replace(**{field: np.zeros_like(getattr(batch, field)) for field in fields})


QUERY = ("query_token", "query_path", "query_vec_mask")
IMAGES = ("cand_img_mask", "hist_img_mask")
TEXTS = ("cand_txt_mask", "hist_txt_mask")
HISTORY = ("hist_mask", "hist_img_mask", "hist_txt_mask")
PAGES = ("page_id",)


@every_model
@pytest.mark.parametrize("missing", [(), IMAGES, TEXTS, IMAGES + TEXTS, HISTORY, PAGES, QUERY], ids=str)
def test_whatever_is_missing_scores_and_gradients_are_finite(name: str, missing: tuple[str, ...]) -> None:
    config = replace(tiny(name), pcvr=True)
    params = weights(name, config)
    single = batch_of([labelled(1, KNOWN, n=1, depth=0), labelled(2, KNOWN, n=1, depth=9)])
    for batch in (without(lists(4), *missing), without(single, *missing)):
        assert all(bool(torch.isfinite(values).all()) for values in tensors(scores(name, config, params, batch)))
        loss, grads = gradients(name, config, params, batch)
        assert bool(torch.isfinite(loss))
        assert all(bool(torch.isfinite(grad).all()) for grad in grads)


@every_model
def test_pages_reach_exactly_the_models_that_read_them(name: str) -> None:
    config = tiny(name)
    params = weights(name, config)
    full, lacking = (tensors(scores(name, config, params, each)) for each in (lists(11), without(lists(11), *PAGES)))
    same = all(torch.equal(one, other) for one, other in zip(full, lacking, strict=True))
    assert same == (config.num_pages == 0)


@every_model
def test_a_list_without_candidates_is_finite_and_changes_no_other_list(name: str) -> None:
    # What is learned of one item type leaves lists without any item of it.
    config = replace(tiny(name), pcvr=True)
    params = weights(name, config)
    batch = lists(3)
    batch.cand_mask[1] = False
    assert not scores(name, config, params, batch).logit[1].any()
    loss, grads = gradients(name, config, params, batch)
    alone, alone_grads = gradients(
        name, config, params, Batch(**{field: column[[0, 2]] for field, column in batch._asdict().items()})
    )
    assert_close(loss, alone)
    assert_close(grads, alone_grads)


@every_model
@pytest.mark.parametrize("field", QUERY)
def test_models_of_schema_2_read_the_query_and_those_of_schema_1_do_not(name: str, field: str) -> None:
    examples = [example(seed) for seed in range(1, 12)]
    for schema in (1, 2):
        config = replace(tiny(name), feature_schema=schema)
        params = weights(name, config)
        batch = collate(Examples.of(examples), id_maps(), width=WIDTH, history=10, schema=schema)
        full, lacking = (scores(name, config, params, each).logit for each in (batch, without(batch, field)))
        assert torch.equal(full, lacking) == (schema == 1)


@with_images
def test_without_images_the_scores_are_those_of_the_text_only_run(name: str) -> None:
    config = tiny(name)
    params = weights(name, config)
    batch = lists(6)
    text_only = scores(name, replace(config, modalities=("text",)), params, batch).logit
    assert_close(scores(name, config, params, without(batch, *IMAGES)).logit, text_only)
    assert (scores(name, config, params, batch).logit - text_only).abs().max() > 1e-3


@pytest.mark.slow
@every_model
def test_training_is_repeatable_to_the_bit(name: str) -> None:
    config = tiny(name)
    batch = to_torch(lists(16))
    first, again, other = (train(name, config, batch, 4, seed) for seed in (1, 1, 2))
    assert all(torch.equal(values, again[weight]) for weight, values in first.items())
    assert not all(torch.equal(values, other[weight]) for weight, values in first.items())


@every_model
def test_saved_and_loaded_training_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    config = tiny(name)
    batch = to_torch(lists(16))
    params = {weight: values.requires_grad_() for weight, values in MODELS[name].init(config, 1).items()}
    optimizer = torch.optim.Adagrad(params.values(), lr=0.07, initial_accumulator_value=0.1)
    step(name, config, params, batch, optimizer)
    accumulators = {weight: optimizer.state[values]["sum"] for weight, values in params.items()}
    save_file({weight: values.detach() for weight, values in params.items()}, tmp_path / "params.safetensors")
    save_file(accumulators, tmp_path / "optimizer.safetensors")
    loaded = {weight: values.requires_grad_() for weight, values in load_file(tmp_path / "params.safetensors").items()}
    MODELS[name].load(config, loaded)
    before = MODELS[name].forward(config, params, batch).logit
    assert torch.equal(MODELS[name].forward(config, loaded, batch).logit, before)
    resumed = torch.optim.Adagrad(loaded.values(), lr=0.07, initial_accumulator_value=0.1)
    for weight, values in load_file(tmp_path / "optimizer.safetensors").items():
        resumed.state[loaded[weight]]["sum"] = values
    step(name, config, params, batch, optimizer)
    step(name, config, loaded, batch, resumed)
    assert all(torch.equal(values, loaded[weight]) for weight, values in params.items())


@every_model
@pytest.mark.parametrize("damage", ["name", "missing", "shape", "dtype"])
def test_weights_of_another_form_are_refused(name: str, damage: str) -> None:
    config = tiny(name)
    params = MODELS[name].init(config, 0)
    weight = "context.weight"
    changed = {
        "name": {**params, "foreign": torch.zeros(1)},
        "missing": {key: values for key, values in params.items() if key != weight},
        "shape": {**params, weight: params[weight][:-1]},
        "dtype": {**params, weight: params[weight].double()},
    }[damage]
    with pytest.raises(RuntimeError):
        scores(name, config, changed, lists(2))
    if damage != "dtype":
        with pytest.raises(RuntimeError, match="foreign" if damage == "name" else weight):
            MODELS[name].load(config, changed)


@pytest.mark.slow
@every_model
def test_thirty_two_sessions_are_learned_by_heart(name: str) -> None:
    config = tiny(name)
    batch = to_torch(lists(32))
    params = {weight: values.requires_grad_() for weight, values in MODELS[name].init(config, 1).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    assert any(step(name, config, params, batch, optimizer) < 0.05 for _ in range(250))


@pytest.mark.slow
@every_model
def test_shuffled_labels_teach_nothing(name: str) -> None:
    config = tiny(name)
    params = train(name, config, to_torch(lists(32)), 30, 1)
    held_out = [example(seed) for seed in range(1_000, 1_300)]
    logit = scores(name, config, params, batch_of(held_out)).logit.numpy().astype(np.float64)
    size = max(len(example.item_ids) for example in held_out)
    positive = np.array([np.pad(example.conv > 0, (0, size - len(example.item_ids))) for example in held_out])
    mask = np.arange(size) < np.array([len(example.item_ids) for example in held_out])[:, None]
    auc = list_auc(ranks(logit, mask), positive, mask)
    standard_error = auc.std() / np.sqrt(auc.size)
    assert abs(auc.mean() - 0.5) < 3 * standard_error


@every_model
def test_a_list_does_not_see_the_others_of_its_batch(name: str) -> None:
    config = tiny(name)
    params = weights(name, config)
    examples = [example(seed) for seed in range(64)]
    together = scores(name, config, params, batch_of(examples)).logit
    for row in (0, 13, 63):
        alone = scores(name, config, params, batch_of(examples[row : row + 1])).logit[0]
        assert_close(together[row, : alone.numel()], alone)


@every_model
def test_scores_do_not_see_labels_or_the_displayed_order(name: str) -> None:
    config = tiny(name)
    params = weights(name, config)
    request = served(5, KNOWN, n=12, depth=6)
    shown = example_from_session(request.session(range(12)), KNOWN)
    shuffled = np.random.default_rng(1).permutation(12).tolist()
    bought = request.session(shuffled, orders=[3], clicks=[3, 4], gross_minor=999)
    other = example_from_session(bought, KNOWN)
    assert other.item_ids == shown.item_ids
    assert other.conv.sum() == 1
    assert torch.equal(
        scores(name, config, params, batch_of([shown])).logit, scores(name, config, params, batch_of([other])).logit
    )


@every_model
def test_forward_passes_never_see_what_is_known_after_serving(name: str) -> None:
    config = replace(tiny(name), pcvr=True)
    params = weights(name, config)
    batch = to_torch(lists(4))
    after = TensorBatch._fields[TensorBatch._fields.index("click") :]
    assert after == ("click", "conv", "money", "click_weight", "weight", "position", "latency_ms")
    # A pass that touches an absent tensor fails, even where the values would not matter.
    absent: dict[str, Any] = dict.fromkeys(after)
    blind = batch._replace(**absent)
    expected, actual = (MODELS[name].forward(config, params, each) for each in (batch, blind))
    assert all(torch.equal(*pair) for pair in zip(tensors(actual), tensors(expected), strict=True))
    assert all(torch.equal(actual.aux[key], values) for key, values in expected.aux.items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["softmax", "raw"])
@pytest.mark.parametrize("main_loss", ["softmax", "bce"])
def test_autocast_is_finite_and_close_to_float32(
    name: str, dtype: torch.dtype, attention: Literal["softmax", "raw"], main_loss: Literal["softmax", "bce"]
) -> None:
    config = replace(tiny(name), pcvr=True, attention=attention, main_loss=main_loss)
    shop = catalogue()
    # An empty history, a list of one item and padding are the rows that masks empty.
    examples = [labelled(1, shop, n=8, depth=0), labelled(2, shop, n=1, depth=4), labelled(3, shop, n=20, depth=6)]
    batch = to_torch(batch_of(examples))
    params = {key: values.requires_grad_() for key, values in MODELS[name].init(config, 0).items()}
    shown = shown_pages(config, batch)
    exact = MODELS[name].forward(config, params, batch, shown=shown)
    expected, _ = total_loss(exact, batch, config)
    with torch.autocast("cpu", dtype):
        outputs = MODELS[name].forward(config, params, batch, shown=shown)
    loss, _ = total_loss(outputs, batch, config)
    gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    assert all(bool(torch.isfinite(each).all()) for each in gradients if each is not None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(golden_scores(outputs).float(), golden_scores(exact), rtol=0.1, atol=0.1)
