from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs import LEARNING_PROFILES, MODEL_PROFILES, LearningSettings
from trainer.features import Examples
from trainer.learning.debias import EffectiveLabels, is_label, label_weights
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists

CURVE = LearningSettings(debias="curve", examination=(2.0, 1.0, 0.1), max_weight=8.0)


def test_weights_are_clipped_and_relative_to_the_first_position() -> None:
    found = label_weights(np.array([[1, 2, 3], [7, 0, 0]], np.int32), CURVE)
    assert found is not None
    assert found.tolist() == [[1, 2, 8], [8, 1, 1]]
    assert found.dtype == np.float32
    assert label_weights(np.array([[1, 2]], np.int32), replace(CURVE, debias="none")) is None
    auto = label_weights(np.array([[1, 2]], np.int32), replace(CURVE, debias="auto"))
    assert auto is not None
    assert auto.tolist() == [[1, 2]]
    assert label_weights(np.array([[1, 2]], np.int32), LearningSettings()) is None


def test_labels_are_clicks_that_train_and_orders() -> None:
    batch = batch_of([labelled(number, catalogue(), n=3) for number in range(2)])._replace(
        click=np.array([[1, 0, 0], [1, 0, 0]], np.float32),
        conv=np.array([[0, 1, 0], [0, 0, 1]], np.float32),
        click_weight=np.array([1, 0], np.float32),
    )
    assert is_label(batch).tolist() == [[True, True, False], [False, False, True]]


def test_equal_weights_are_worth_their_number() -> None:
    labels = EffectiveLabels()
    assert labels.effective == 0
    labels.add(np.full(7, 3.0))
    assert labels.num == 7
    assert labels.effective == pytest.approx(7)
    labels.add(np.array([30.0]))
    assert labels.effective == pytest.approx((21 + 30) ** 2 / (63 + 900))


def test_a_learner_weighs_labels_by_their_displayed_position_alone() -> None:
    examples = [labelled(number, catalogue(), n=6) for number in range(16)]
    far = [replace(each, position=each.position + 2) for each in examples]

    def learned(learning: LearningSettings, own: list) -> tuple[torch.Tensor, EffectiveLabels]:  # type: ignore[type-arg]
        learner = Learner("prm", MODEL_PROFILES["prm"]["tiny"], learning, device=torch.device("cpu"))
        learner.train(TrainingLists.without_sessions(Examples.of(own), fresh=True))
        return torch.cat([weight.detach().flatten() for weight in learner.params.values()]), learner.labels

    plain = LEARNING_PROFILES["tiny"]
    by_curve = replace(plain, debias="curve", examination=(1.0, 0.5, 0.25, 0.2))
    weights, labels = learned(plain, examples)
    assert torch.equal(weights, learned(plain, far)[0])
    assert labels.effective == pytest.approx(labels.num)
    weighed, by_weight = learned(by_curve, examples)
    assert not torch.equal(weights, weighed)
    assert not torch.equal(weighed, learned(by_curve, far)[0])
    assert by_weight.num == labels.num
    assert 0 < by_weight.effective < labels.num
