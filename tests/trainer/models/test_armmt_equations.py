"""The module ARMMT against plain loops written from the paper's equations."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.lists import batch_of, catalogue, labelled
from tests.trainer.models.plain_armmt import PlainArmmt, total_loss
from trainer.configs.armmt import PROFILES, ArmmtConfig
from trainer.features import Batch
from trainer.learning import losses
from trainer.models import MODELS, Vocabulary, to_torch

KNOWN = catalogue()
TINY = replace(
    PROFILES["tiny"],
    vocabulary=Vocabulary(item=200, shop=200, brand=200, category=200),
    touch_columns=False,  # The paper has none.
    field_layers=2,
    mm_layers=2,
    global_layers=2,
)
FAITHFUL = replace(TINY, post_norm=True, cafu_activation="relu", attention="raw")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without(batch: Batch, *fields: str) -> Batch:
    return batch._replace(**{field: np.zeros_like(getattr(batch, field)) for field in fields})


ORDINARY = batch_of([labelled(seed, KNOWN) for seed in range(4)])
BATCHES = {
    "ordinary lists": ORDINARY,
    "lists of one item": batch_of([labelled(1, KNOWN, n=1, depth=4), labelled(2, KNOWN, n=1, depth=0)]),
    "empty histories": batch_of([labelled(seed, KNOWN, depth=0) for seed in range(3)]),
    "no images": without(ORDINARY, "cand_img_mask", "hist_img_mask"),
    "no vectors": without(ORDINARY, "cand_img_mask", "hist_img_mask", "cand_txt_mask", "hist_txt_mask"),
    "no vectors in the history": without(ORDINARY, "hist_img_mask", "hist_txt_mask"),
}


@pytest.mark.no_cover
@pytest.mark.parametrize("config", [TINY, FAITHFUL], ids=["default", "post-LN, ReLU, raw"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_the_module_computes_the_equations_of_the_paper(config: ArmmtConfig, batch: Batch) -> None:
    weights = MODELS["armmt"].init(config, 3)
    for seed, values in enumerate(weights.values()):
        values.add_(torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.05)
    plain = PlainArmmt(config, {name: values.numpy().astype(np.float64) for name, values in weights.items()})
    expected = [plain.score(batch, row) for row in range(len(batch.cand_mask))]
    outputs = MODELS["armmt"].forward(config, weights, to_torch(batch))
    assert outputs.click_logit is not None
    for row, scores in enumerate(expected):
        n = len(scores.logit)
        assert outputs.logit[row, :n].numpy() == pytest.approx(scores.logit, rel=0, abs=1e-5)
        assert outputs.click_logit[row, :n].numpy() == pytest.approx(scores.click, rel=0, abs=1e-5)
    loss, _ = losses.total_loss(outputs, to_torch(batch), config)
    assert loss.item() == pytest.approx(total_loss(expected, batch, config.aux_weight), rel=0, abs=1e-5)
