"""Columns by touches: against the keys of the behaviours, in plain loops, and through the whole model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from stream.schemas.events import History
from tests.trainer.lists import NOW_TS, batch_of, catalogue, labelled
from trainer.features import SessionExample, context_f16, example_from_request, item_f16
from trainer.models import MODELS, to_torch
from trainer.models.touches import TouchColumns, distances, touched, within_list

KNOWN = catalogue()


def request(history: list[tuple[str, int]], items: list[str]) -> SessionExample:
    """A list with behaviours (item, age in seconds), newest first, of no known category: all of them stay."""
    return example_from_request(
        query_id="q",
        item_ids=items,
        items=item_f16([KNOWN.items[item_id] for item_id in items]),
        context=context_f16(event_ts=NOW_TS),
        history=History(
            object_id=[item_id for item_id, _ in history],
            action=["click"] * len(history),
            age_s=[age for _, age in history],
            category=[""] * len(history),
        ),
        category="unknown",
        catalogue=KNOWN,
    )


def test_steps_count_the_behaviours_since_the_newest_touch() -> None:
    history = [("i9", 5), ("i1", 6), ("i2", 7), ("i1", 3_000), ("i3", 172_000), ("i4", 172_001)]
    example = request(history, ["i3", "i1", "i4", "i5", "i2"])
    found = touched(to_torch(batch_of([example])))
    assert found.mask[0].tolist() == [True, True, True, False, True]
    assert found.steps[0].tolist() == [4, 1, 5, 0, 2]
    assert found.last[0].tolist() == [False, True, False, False, False]


def test_distances_are_signed_and_absent_without_a_touch() -> None:
    last = torch.tensor([[False, True, False], [False, False, False]])
    distance, exists = distances(last, torch.tensor([[1, 4, 9], [1, 2, 3]]))
    assert distance.tolist() == [[-3, 0, 5], [0, 0, 0]]
    assert exists.tolist() == [[True], [False]]


def test_forms_within_the_list_are_min_max_average_rank_and_standard_score() -> None:
    values = np.array([[3.0, 1.0], [3.0, 1.0], [-2.0, 1.0], [7.5, 1.0]], dtype=np.float32)
    padded = torch.from_numpy(np.concatenate([values, np.full((2, 2), np.nan, np.float32)]))[None]
    found = within_list(padded, torch.tensor([[True] * 4 + [False] * 2]))
    column = values[:, 0].astype(np.float64)
    np.testing.assert_allclose(found[0, :4, 0], (column + 2) / 9.5, rtol=1e-6)
    np.testing.assert_allclose(found[0, :4, 2], stats.rankdata(column) / 4, rtol=1e-6)
    np.testing.assert_allclose(found[0, :4, 4], stats.zscore(column), rtol=1e-5)
    # The second column is flat.
    assert found[0, :4, 1].tolist() == [0] * 4
    assert found[0, :4, 3].tolist() == [0.625] * 4
    assert found[0, :4, 5].tolist() == [0] * 4
    assert not found[0, 4:].any()


def test_all_columns_of_a_list_by_hand() -> None:
    config = replace(MODELS["mlp"].profiles["tiny"], d=2)
    module = TouchColumns(config)
    with torch.no_grad():
        assert module.distance is not None
        module.distance.weight.copy_(torch.arange(26.0)[:, None].expand(26, 2))
        columns = module(to_torch(batch_of([request([("i9", 5), ("i2", 7), ("i3", 60)], ["i3", "i1", "i2"])])))[0]
    assert columns.shape == (3, TouchColumns.width(config))
    steps = [2, 0, 1]
    inverse = [1 / 3, 0.0, 1 / 2]
    assert columns[:, 0].tolist() == pytest.approx([math.log1p(value) for value in steps])
    assert columns[:, 1].tolist() == pytest.approx(inverse)
    assert columns[:, 4].tolist() == pytest.approx([value * 2 for value in inverse])
    price = [float(value) for value in item_f16([KNOWN.items[item_id] for item_id in ("i3", "i1", "i2")])[:, 0]]
    assert columns[:, 11].tolist() == pytest.approx(stats.zscore(price), abs=1e-5)
    assert columns[:, 15].tolist() == pytest.approx([(value - price[2]) * 0.2 for value in price], abs=1e-6)
    assert columns[:, 19].tolist() == pytest.approx([0.1] * 3)
    assert columns[:, 20].tolist() == pytest.approx([math.log1p(3)] * 3)
    assert columns[:, 21].tolist() == pytest.approx([2 / 3] * 3)
    # The item touched last stands on rank 3.
    assert columns[:, 22].tolist() == pytest.approx([-0.2, -0.1, 0.0])
    assert columns[:, 23].tolist() == pytest.approx([0.2, 0.1, 0.0])
    assert columns[:, 24].tolist() == [0, 0, 0]
    assert columns[:, 25].tolist() == [11, 12, 13]


@pytest.mark.parametrize("name", MODELS)
def test_models_read_the_columns_only_when_told(name: str) -> None:
    batch = to_torch(batch_of([labelled(seed, KNOWN) for seed in range(4)]))
    config = MODELS[name].profiles["tiny"]
    older = batch._replace(hist_num=batch.hist_num + 100)
    blind = replace(config, touch_columns=False)
    assert "touches.distance.weight" in MODELS[name].init(config, 0)
    assert "touches.distance.weight" not in MODELS[name].init(blind, 0)
    if name == "mlp":
        # It has no attention over the history, so the ages reach it by the steps alone.
        for each, reads in ((config, True), (blind, False)):
            params = MODELS[name].init(each, 0)
            scores = [MODELS[name].forward(each, params, lists).logit for lists in (batch, older)]
            assert (not torch.equal(*scores)) == reads
