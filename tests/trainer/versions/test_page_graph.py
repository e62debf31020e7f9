"""Pages that the graphs of PIER choose, against torch."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ArtifactError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.pier import PierConfig
from trainer.features import Batch
from trainer.models import MODELS, TensorBatch, to_torch
from trainer.versions.graph import Graph, decode, encode
from trainer.versions.onnx_export import export

KNOWN = catalogue()
SPEC = MODELS["pier"]
CONFIG = SPEC.profiles["tiny"]
SAMPLE = batch_of([labelled(0, KNOWN, n=6, depth=3)])


def weights(seed: int) -> dict[str, Tensor]:
    """Weights whose pages differ in value."""
    generator = torch.Generator().manual_seed(seed)
    drawn = SPEC.init(CONFIG, seed)
    return {
        name: value if name.startswith("rows.") else value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in drawn.items()
    }


def graph_of(params: dict[str, Tensor]) -> Graph:
    return Graph(export("pier", CONFIG, SAMPLE), {name: value.numpy() for name, value in params.items()})


def with_pages(batch: Batch, seed: int) -> Batch:
    """The same lists of clients who clicked up to five pages."""
    rng = np.random.default_rng(seed)
    slots = rng.integers(2, 200, batch.page_id.shape, dtype=batch.page_id.dtype)
    slots[:, rng.integers(1, slots.shape[1] + 1) :] = 0
    return batch._replace(page_id=slots)


def value(params: dict[str, Tensor], batch: TensorBatch, page: NDArray[np.int64]) -> float:
    """Return the expected clicks of a page of a batch of one list, by torch."""
    found = SPEC.forward(CONFIG, params, batch, shown=torch.from_numpy(page)[None]).page
    assert found is not None
    return float(torch.sigmoid(found.logit).sum())


@pytest.mark.parametrize("n", [1, 2, 4, 5, 12, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_graph_chooses_a_page_of_the_value_that_torch_finds(n: int, seed: int) -> None:
    assert isinstance(CONFIG, PierConfig)
    params = weights(seed)
    batch = batch_of([labelled(seed, KNOWN, n=n, depth=8)])
    for asked in (batch, with_pages(batch, seed)):
        found = np.argsort(-graph_of(params).scores(asked)[0], kind="stable")
        with torch.no_grad():
            outputs = SPEC.forward(CONFIG, params, to_torch(asked))
            expected = outputs.logit[0].argsort(descending=True, stable=True).numpy()
            places = min(CONFIG.places, n)
            best, torch_best = (value(params, to_torch(asked), order[:places]) for order in (found, expected))
        assert sorted(found) == list(range(n))
        assert best == pytest.approx(torch_best, abs=1e-5)


def test_a_page_is_not_the_order_of_the_first_pass_alone() -> None:
    params, moved = weights(1), 0
    for seed in range(6):
        batch = batch_of([labelled(seed, KNOWN, n=12, depth=8)])
        outputs = SPEC.forward(CONFIG, params, to_torch(batch))
        assert outputs.relevance is not None
        first = outputs.relevance[0].argsort(descending=True, stable=True).tolist()
        moved += np.argsort(-graph_of(params).scores(batch)[0], kind="stable").tolist() != first
    assert moved >= 3


def test_the_graph_of_the_first_pass_alone_has_no_scores_for_an_older_release() -> None:
    stored = decode(export("pier", CONFIG, SAMPLE))
    params = {name: value.numpy() for name, value in weights(0).items()}
    with pytest.raises(RuntimeError, match="logit"):
        Graph(encode(replace(stored, pages=None)), params).scores(SAMPLE)


@pytest.mark.parametrize("fault", ["model", "dense", "planes"])
def test_a_damaged_evaluator_is_refused(fault: str) -> None:
    stored = decode(export("pier", CONFIG, SAMPLE))
    assert stored.pages is not None
    pages = {
        "model": replace(stored.pages, model=stored.pages.model[:-50]),
        "dense": replace(stored.pages, dense=stored.pages.dense[1:]),
        "planes": replace(stored.pages, planes=stored.pages.planes[:-4]),
    }[fault]
    damaged = encode(replace(stored, pages=pages))
    with pytest.raises(ArtifactError, match="not those of its graph"):
        Graph(damaged, {name: value.numpy() for name, value in weights(0).items()})
