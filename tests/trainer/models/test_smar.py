"""SMAR's page ranker: types matter, pages matter, and products alone are scored as without types."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.smar import PROFILES
from trainer.features.item_types import type_columns
from trainer.models import MODELS, TensorBatch, to_torch
from trainer.models.inputs import num_columns

KNOWN = catalogue()
CONFIG = PROFILES["tiny"]
PARAMS = MODELS["smar"].init(CONFIG, 1)


def page(*types: int) -> TensorBatch:
    """A page whose items have these places in `ITEM_TYPES`."""
    batch = to_torch(batch_of([labelled(2, KNOWN, n=len(types))]))
    numbers = batch.cand_num.clone()
    numbers[..., type_columns(2)] = torch.nn.functional.one_hot(torch.tensor([types]), 5)[..., 1:].float()
    return batch._replace(cand_num=numbers)


def scores(batch: TensorBatch, params: dict[str, Tensor] = PARAMS) -> Tensor:
    return MODELS["smar"].forward(CONFIG, params, batch).logit[0]


def test_the_type_of_one_item_changes_the_scores_of_the_others() -> None:
    change = scores(page(0, 0, 2, 0)) - scores(page(0, 0, 0, 0))
    assert (change.abs() > 1e-5).all()
    assert scores(page(0, 0, 2, 0)).tolist() != scores(page(0, 0, 3, 0)).tolist()


def test_each_type_has_a_row_of_its_own_and_products_begin_at_zero() -> None:
    assert PARAMS["item_type.weight"].shape == (5, CONFIG.width)
    assert not PARAMS["item_type.weight"][0].any()
    other = {**PARAMS, "item_type.weight": PARAMS["item_type.weight"].clone()}
    other["item_type.weight"][1:] *= 9.0
    torch.testing.assert_close(scores(page(0, 0, 0, 0), other), scores(page(0, 0, 0, 0)))
    assert not torch.allclose(scores(page(0, 1, 0, 0), other), scores(page(0, 1, 0, 0)))


def test_data_of_another_form_has_products_alone() -> None:
    config = replace(CONFIG, num_columns=len(num_columns(CONFIG)))
    params = MODELS["smar"].init(config, 1)
    other = {**params, "item_type.weight": params["item_type.weight"] * 9.0}
    found, moved = (MODELS["smar"].forward(config, own, page(0, 1, 2, 0)).logit for own in (params, other))
    torch.testing.assert_close(found, moved)


@pytest.mark.parametrize(
    ("teachers", "message"),
    [(("a" * 63,), "64 hex digits"), (("A" * 64,), "64 hex digits"), (("a" * 64,) * 2, "named twice")],
)
def test_teachers_are_addresses_each_once(teachers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, teachers=teachers)


@pytest.mark.parametrize(("grade", "anchor", "reads"), [(1.0, 0.0, True), (0.0, 0.5, True), (0.0, 0.0, False)])
def test_grades_are_read_where_a_loss_has_a_weight(grade: float, anchor: float, reads: bool) -> None:
    assert replace(PROFILES["tiny"], grade_weight=grade, anchor_weight=anchor).learns_grades is reads
