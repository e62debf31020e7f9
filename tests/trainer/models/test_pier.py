"""PIER: the page that it chooses against brute force, its losses by hand, and what its golden scores are for."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.pier import PierConfig
from trainer.features import TABLES, batch_from_columns
from trainer.learning.losses import page_clicks, total_loss
from trainer.models import MODELS, Outputs, TensorBatch, Vocabulary, shown_pages, to_torch
from trainer.models.batch import Page, golden_scores, shown_items
from trainer.models.pier import Pier

KNOWN = catalogue()
SPEC = MODELS["pier"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(**changes: int) -> PierConfig:
    config = SPEC.profiles["tiny"]
    assert isinstance(config, PierConfig)
    small = Vocabulary(item=200, shop=200, brand=200, category=200)
    return replace(config, vocabulary=small, **changes)  # type: ignore[arg-type] # the changed fields hold integers


def weights(config: PierConfig, seed: int = 0, *, scale: float = 0.3) -> dict[str, Tensor]:
    """Fresh weights with an evaluator whose pages differ in value."""
    generator = torch.Generator().manual_seed(seed)
    found = SPEC.init(config, seed)
    for name, values in found.items():
        if not name.startswith("rows."):
            values.add_(torch.randn(values.shape, generator=generator), alpha=scale)
    return found


def lists(*sizes: int) -> TensorBatch:
    return to_torch(batch_of([labelled(seed, KNOWN, n=n, depth=8) for seed, n in enumerate(sizes, start=1)]))


def shown(outputs: Outputs, row: int, n: int) -> list[int]:
    """Return the items of a list in the order of the scores."""
    return outputs.logit[row, :n].argsort(descending=True, stable=True).tolist()


def values(config: PierConfig, params: dict[str, Tensor], batch: TensorBatch, pages: Tensor) -> list[float]:
    """Return the expected clicks of each of these pages [K,s] of a batch of one list."""
    copies = TensorBatch(*(column.expand(len(pages), *column.shape[1:]) for column in batch))
    page = SPEC.forward(replace(config, orders=1, contrast=0.0), params, copies, shown=pages).page
    assert page is not None
    found: list[float] = torch.sigmoid(page.logit).sum(dim=1).tolist()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_of_a_list_of_five_the_best_of_all_orders_is_shown(seed: int) -> None:
    config = tiny(places=5, permuted=5, orders=140)
    params, batch = weights(config, seed, scale=0.1), lists(5)
    orders = [list(order) for order in permutations(range(5))]
    every = sorted(zip(values(config, params, batch, torch.tensor(orders)), orders, strict=True))
    assert every[-1][0] > every[-2][0] > every[0][0]
    assert shown(SPEC.forward(config, params, batch), 0, 5) == every[-1][1]


def test_behind_the_first_places_the_list_keeps_the_order_of_the_first_pass() -> None:
    config = tiny(places=3, permuted=3)
    outputs = SPEC.forward(config, weights(config), lists(12, 9))
    assert outputs.relevance is not None
    for row, n in enumerate((12, 9)):
        first = outputs.relevance[row, :n].argsort(descending=True, stable=True).tolist()
        page = shown(outputs, row, n)
        assert page[3:] == [item for item in first if item not in page[:3]]
        assert sorted(page) == list(range(n))


def test_a_page_is_changed_only_for_a_higher_value() -> None:
    config = tiny()
    params = weights(config)
    params |= {name: torch.zeros_like(value) for name, value in params.items() if name.startswith("evaluator.logit")}
    outputs = SPEC.forward(config, params, lists(12, 3, 1))
    assert outputs.relevance is not None
    for row, n in enumerate((12, 3, 1)):
        assert shown(outputs, row, n) == outputs.relevance[row, :n].argsort(descending=True, stable=True).tolist()


def with_pages(*sizes: int) -> TensorBatch:
    """Lists whose clients have pages of these numbers of items."""
    batch = lists(*[9] * 4)
    slots = torch.randint(2, 200, (4, 5, 6, 4), generator=torch.Generator().manual_seed(5))
    for page in range(5):
        slots[:, page, sizes[page] if page < len(sizes) else 0 :] = 0
    return batch._replace(page_id=slots)


def page_logits(config: PierConfig, batch: TensorBatch) -> Tensor:
    page = SPEC.forward(config, weights(config), batch, shown=torch.tensor([[4, 0, 8, 2, 1]] * 4)).page
    assert page is not None
    return page.logit


def test_a_clicked_page_is_the_mean_of_the_vectors_of_its_items() -> None:
    config, batch = tiny(), with_pages(6, 1, 3)
    params = weights(config)
    module = SPEC.load(config, params)
    assert isinstance(module, Pier)
    found, is_page = module._past_pages(batch)
    assert is_page.tolist() == [[True, True, True, False, False]] * 4
    for row in range(4):
        for page, size in enumerate((6, 1, 3)):
            items = [
                torch.cat([params[f"rows.{table}"][slot] for table, slot in zip(TABLES[:3], slots, strict=False)])
                for slots in batch.page_id[row, page, :size].tolist()
            ]
            torch.testing.assert_close(found[row, page], torch.stack(items).mean(dim=0))
    assert not found[:, 3:].any()


def test_the_evaluator_reads_the_newest_clicked_pages_in_no_order() -> None:
    config, batch = tiny(), with_pages(6, 1, 3)
    full = page_logits(config, batch)
    assert (full - page_logits(config, with_pages(6, 1))).abs().max() > 1e-3
    mixed = batch._replace(page_id=batch.page_id[:, [2, 0, 4, 1, 3]].flip(2))
    torch.testing.assert_close(page_logits(config, mixed), full)
    two = replace(config, pages=2)
    assert torch.equal(page_logits(two, batch), page_logits(two, with_pages(6, 1)))


def test_a_batch_from_before_the_pages_is_scored_as_one_of_clients_without_pages() -> None:
    config = tiny()
    stored = {name: column.numpy() for name, column in with_pages()._asdict().items() if name != "page_id"}
    old = to_torch(batch_from_columns(stored))
    torch.testing.assert_close(page_logits(config, old), page_logits(config, with_pages()))
    golden = [golden_scores(SPEC.forward(config, weights(config), each)) for each in (old, with_pages())]
    torch.testing.assert_close(golden[0], golden[1])


def test_the_loss_of_pages_is_the_mean_cross_entropy_of_their_places() -> None:
    rng = np.random.default_rng(3)
    logit, click = rng.standard_normal((2, 3)), (rng.random((2, 6)) < 0.5).astype(np.float64)
    item, mask = np.array([[4, 0, 2], [1, 0, 5]]), np.arange(6) < np.array([[6], [2]])
    expected = []
    for row in range(2):
        terms = [
            -np.log(1 / (1 + np.exp(-score if click[row, each] else score)))
            for score, each in zip(logit[row], item[row], strict=True)
            if mask[row, each]
        ]
        expected.append(np.mean(terms))
    page = Page(torch.from_numpy(item), torch.from_numpy(logit), None)
    found = page_clicks(page, torch.from_numpy(click), torch.from_numpy(mask), torch.tensor([1.0, 3.0]))
    assert float(found) == pytest.approx((expected[0] + 3 * expected[1]) / 4)


def test_the_contrast_is_subtracted_by_its_weight() -> None:
    batch = lists(12, 9, 4)
    losses = {}
    for contrast in (0.0, 0.5):
        config = replace(tiny(), contrast=contrast)
        outputs = SPEC.forward(config, weights(config), batch, shown=shown_pages(config, batch))
        assert outputs.page is not None
        losses[contrast] = total_loss(outputs, batch, config)[0]
        if contrast:
            assert outputs.page.contrast is not None
            expected = losses[0.0] - contrast * outputs.page.contrast.mean()
            torch.testing.assert_close(losses[contrast], expected)
            assert float(outputs.page.contrast.abs().min()) >= 0.0
            assert float(outputs.page.contrast.abs().max()) > 1e-3
        else:
            assert outputs.page.contrast is None


@pytest.mark.no_cover
def test_the_evaluator_learns_the_clicks_of_the_pages_that_were_shown() -> None:
    config, batch = replace(tiny(), contrast=0.0), lists(*[10] * 12)
    params = {name: value.requires_grad_() for name, value in SPEC.init(config, 1).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    found = []
    for _ in range(60):
        loss, parts = total_loss(SPEC.forward(config, params, batch, shown=shown_pages(config, batch)), batch, config)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(float(parts["page"]))
    assert found[-1] < 0.3 * found[0]


def test_armmt_as_the_evaluator_scores_the_items_of_a_page_as_a_list_in_that_order() -> None:
    config, batch = replace(tiny(), evaluator="armmt", modalities=("image", "text")), lists(9, 3)
    params = weights(config)
    shown = torch.tensor([[4, 0, 8, 2, 1], [2, 0, 1, 3, 4]])
    page = SPEC.forward(config, params, batch, shown=shown).page
    assert page is not None
    prefix = "evaluator.model."
    own = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith((prefix, "rows."))}
    assert not any(name.startswith(f"{prefix}rows.") for name in params)
    for row, count in ((0, 5), (1, 3)):
        items = shown[row, :count]
        alone = batch._replace(
            **{
                name: column[row : row + 1] if not name.startswith("cand_") else column[row : row + 1, items]
                for name, column in batch._asdict().items()
            }
        )
        alone = alone._replace(cand_rank=torch.arange(1, count + 1, dtype=torch.int16)[None])
        expected = MODELS["armmt"].forward(config.armmt(), own, alone).logit[0]
        torch.testing.assert_close(page.logit[row, :count], expected)
        assert not page.logit[row, count:].any()


def test_shown_items_stand_in_the_order_of_their_positions() -> None:
    position = torch.tensor([[3, 1, 0, 2, 9], [2, 1, 7, 0, 0]], dtype=torch.int32)
    mask = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    assert shown_items(position, mask, 4).tolist() == [[1, 3, 0, 2], [1, 0, 2, 3]]


def test_small_differences_of_weights_change_the_golden_scores_little() -> None:
    """Two pages of nearly equal value change places then, and with them the scores that sort the list."""
    config, batch = tiny(), lists(*[14] * 8)
    params = weights(config)
    params["evaluator.logit.weight"] *= 0.0
    exact = SPEC.forward(config, params, batch)
    noise = torch.Generator().manual_seed(1)
    params["evaluator.logit.weight"] += 1e-5 * torch.randn(params["evaluator.logit.weight"].shape, generator=noise)
    near = SPEC.forward(config, params, batch)
    assert exact.golden is not None
    assert near.golden is not None
    assert float((exact.golden - near.golden).abs().max()) < 0.01
    assert float((exact.logit - near.logit).abs().max()) > 0.1


@pytest.mark.parametrize(("name", "value"), [("permuted", 6), ("permuted", 7), ("pages", 6)])
def test_settings_that_cannot_work_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        tiny(**{name: value}, **({"places": 9} if value > 6 else {}))
