"""Weights of the modalities by query and category, against the numbers of small lists."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs import LearningSettings
from trainer.evaluation.modalities import (
    OTHER,
    QueryWeight,
    RunningWeights,
    WeightSample,
    by_category,
    item_weights,
    query_weights,
)
from trainer.features import Batch, Examples
from trainer.learning.former import score
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists
from trainer.models import MODELS, Outputs, Vocabulary

KNOWN = catalogue()
TINY = replace(MODELS["armmt"].profiles["tiny"], vocabulary=Vocabulary(item=200, shop=200, brand=200, category=200))


def outputs(**aux: torch.Tensor) -> Outputs:
    return Outputs(torch.zeros(1, 1), None, None, aux)


def batch(*sizes: int) -> Batch:
    return batch_of([labelled(seed, KNOWN, n=n, depth=4) for seed, n in enumerate(sizes, start=1)])


def test_items_without_the_vector_have_no_weight() -> None:
    lists = batch(4, 2)
    lists = lists._replace(cand_img_mask=np.array([[1, 0, 1, 0], [1, 1, 1, 1]], np.bool_))
    lists = lists._replace(cand_txt_mask=np.ones((2, 4), np.bool_))
    weights = torch.tensor([[[0.2, 0.6], [0.3, 0.7], [0.4, 0.0], [0.5, 0.9]], [[0.1, 0.2]] * 4])
    found = item_weights(outputs(cafu_item=weights), lists)
    assert set(found) == {("cafu_item", "image"), ("cafu_item", "text")}
    nan = np.nan
    image, text = found["cafu_item", "image"], found["cafu_item", "text"]
    np.testing.assert_allclose(image, [[0.2, nan, 0.4, nan], [0.1, 0.1, nan, nan]])
    np.testing.assert_allclose(text, [[0.6, 0.7, nan, 0.9], [0.2, 0.2, nan, nan]])
    np.testing.assert_allclose(query_weights(image), [0.3, 0.1])
    assert np.isnan(query_weights(np.full((1, 3), np.nan))).all()
    assert item_weights(outputs(), lists) == {}


def test_a_category_shows_the_spread_of_its_queries_and_the_two_ends() -> None:
    image, text = np.array([0.1, 0.5, 0.3, 0.9, np.nan]), np.full(5, np.nan)
    category = ["shoes", "shoes", "shoes", "", "hats"]
    weights = {("cafu_item", "image"): image, ("cafu_item", "text"): text}
    found = by_category(weights, category, ["a", "b", "c", "d", "e"])
    assert [(each.category, each.modality, each.num_queries) for each in found] == [
        ("shoes", "image", 3),
        ("", "image", 1),
    ]
    assert found[0].quartiles == pytest.approx((0.2, 0.3, 0.4))
    assert (found[0].lowest, found[0].highest) == (
        QueryWeight(query_id="a", weight=0.1),
        QueryWeight(query_id="b", weight=0.5),
    )
    (only,) = by_category(weights, category, ["a", "b", "c", "d", "e"], top=1)
    assert only.category == "shoes"


def test_a_sample_of_a_version_is_that_of_its_lists_one_by_one() -> None:
    examples = [labelled(seed, KNOWN, depth=5) for seed in range(1, 8)]
    own = Learner("armmt", TINY, LearningSettings(), device=torch.device("cpu"))
    whole = WeightSample()
    alone: dict[tuple[str, str], list[float]] = {}
    for part in (examples[:4], examples[4:]):
        lists, found = score("armmt", TINY, own.params, own.id_maps, examples=Examples.of(part), device=own.device)
        whole.add(found, lists)
    for each in examples:
        lists, found = score("armmt", TINY, own.params, own.id_maps, examples=Examples.of([each]), device=own.device)
        for key, weights in item_weights(found, lists).items():
            alone.setdefault(key, []).append(float(query_weights(weights)[0]))
    rows = whole.over_queries([each.category for each in examples], [each.query_id for each in examples])
    assert {(row.unit, row.modality) for row in rows} == set(alone)
    for row in rows:
        values = [
            weight
            for weight, each in zip(alone[row.unit, row.modality], examples, strict=True)
            if each.category == row.category and not np.isnan(weight)
        ]
        assert row.num_queries == len(values)
        assert (row.lowest.weight, row.highest.weight) == pytest.approx((min(values), max(values)))
        assert row.quartiles[1] == pytest.approx(np.median(values))
    assert all(0 < row.lowest.weight <= row.highest.weight < 1 for row in rows)


def test_running_means_count_queries_once_and_pool_small_categories() -> None:
    lists, running = batch(3, 3, 3, 3), RunningWeights()
    lists = lists._replace(cand_img_mask=np.ones((4, 3), np.bool_), cand_txt_mask=np.zeros((4, 3), np.bool_))
    weights = torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None, None].expand(4, 3, 2)
    rows = np.array([True, True, True, False])
    running.add(outputs(cafu_item=weights), lists, ["a", "a", "", "a"], rows)
    running.add(outputs(), lists, ["z"] * 4, rows)
    assert running.means() == pytest.approx({("cafu_item", "image", "a"): 0.2, ("cafu_item", "image", "unknown"): 0.5})
    assert running.means(top=1) == pytest.approx({("cafu_item", "image", "a"): 0.2, ("cafu_item", "image", OTHER): 0.5})
    before = running.means()
    running.restart()
    assert running.means() == before, "until the next batch"
    running.add(outputs(cafu_item=weights), lists, ["b"] * 4, np.ones(4, np.bool_))
    assert running.means() == pytest.approx({("cafu_item", "image", "b"): 0.4})


def test_a_learner_measures_fresh_lists() -> None:
    examples = Examples.of([labelled(seed, KNOWN, depth=5) for seed in range(1, 5)])
    for model, measures in (("armmt", True), ("mlp", False)):
        own = Learner(model, MODELS[model].profiles["tiny"], LearningSettings(), device=torch.device("cpu"))
        own.train(TrainingLists.without_sessions(examples, fresh=False))
        assert own.modalities.means() == {}
        own.train(TrainingLists.without_sessions(examples, fresh=True))
        assert bool(own.modalities.means()) == measures
