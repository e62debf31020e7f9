from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.evaluation import logs
from trainer.configs import LearningSettings
from trainer.evaluation.evaluate import per_list
from trainer.evaluation.lists import Columns
from trainer.evaluation.neural import Epoch, Fit, Patience, fit
from trainer.learning.learner import Learner
from trainer.models import MODELS, Vocabulary

SPLIT = logs.split(400)
VOCABULARY = Vocabulary(item=200, shop=200, brand=200, category=200)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learner(model: str, *, seed: int = 0, lr: float = 0.01) -> Learner:
    config = replace(MODELS[model].profiles["tiny"], vocabulary=VOCABULARY)
    learning = LearningSettings(seed=seed, batch=32, lr=lr)
    return Learner(model, config, learning, device=torch.device("cpu"))


def fitted(
    model: str, *, epochs: int = 6, patience: int = 3, seed: int = 0, lr: float = 0.01
) -> tuple[Fit, list[Epoch]]:
    seen: list[Epoch] = []
    found = fit(
        learner(model, seed=seed, lr=lr),
        SPLIT.train,
        SPLIT.validation,
        SPLIT.test,
        limits=Patience(epochs=epochs, patience=patience),
        seed=seed,
        on_epoch=seen.append,
    )
    return found, seen


def test_a_fit_learns_what_the_lists_show_and_reports_each_epoch() -> None:
    found, seen = fitted("mlp")
    mrr = per_list(found.score, Columns.of(SPLIT.test, "order", tie_seed=0), 5)["mrr"].mean()
    assert mrr > 0.9
    assert tuple(seen) == found.epochs
    assert [epoch.number for epoch in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].train_loss < seen[0].train_loss
    assert found.best_epoch == min(seen, key=lambda epoch: epoch.validation_loss).number
    assert found.num_weights == sum(
        weight.numel() for name, weight in learner("mlp").params.items() if not name.startswith("rows.")
    )


def test_a_fit_stops_when_validation_gets_no_better_and_keeps_the_best_weights() -> None:
    # A rate that is far too high makes the first epoch the best one.
    long, seen = fitted("mlp", epochs=30, patience=2, lr=0.3)
    assert len(seen) == long.best_epoch + 2 < 30
    short, _ = fitted("mlp", epochs=long.best_epoch, patience=2, lr=0.3)
    assert (short.score == long.score).all()


def test_equal_seeds_give_equal_scores_and_others_do_not() -> None:
    assert (fitted("prm", epochs=1)[0].score == fitted("prm", epochs=1)[0].score).all()
    assert (fitted("prm", epochs=1)[0].score != fitted("prm", epochs=1, seed=1)[0].score).any()


def test_armmt_shows_the_weights_of_its_modalities() -> None:
    found, _ = fitted("armmt", epochs=1)
    assert {(each.unit, each.modality) for each in found.modalities} == {
        (unit, modality) for unit in ("cafu_item", "cafu_personal") for modality in ("image", "text")
    }
    with_image = sum(int(each.example.img_mask.sum()) for each in SPLIT.test)
    for each in found.modalities:
        low, middle, high = each.quartiles
        assert 0 < low <= middle <= high < 1
        assert each.num_items == with_image or each.unit == "cafu_personal" or each.modality == "text"
    assert {each.category for each in found.by_category} <= {each.example.category for each in SPLIT.test}
    assert {(each.unit, each.modality) for each in found.by_category} == {
        (each.unit, each.modality) for each in found.modalities
    }
    bare = fitted("mlp", epochs=1)[0]
    assert bare.modalities == ()
    assert bare.by_category == ()


def test_scores_do_not_depend_on_the_displayed_order_or_on_test_labels() -> None:
    before = fitted("mlp", epochs=1)[0].score
    changed = [
        replace(
            each,
            example=replace(
                each.example,
                index=each.example.index[::-1].copy(),
                conv=np.zeros_like(each.example.conv),
                click=np.zeros_like(each.example.click),
            ),
        )
        for each in SPLIT.test
    ]
    own = learner("mlp")
    after = fit(own, SPLIT.train, SPLIT.validation, changed, limits=Patience(epochs=1, patience=1), seed=0)
    assert (after.score == before).all()


def test_validation_has_the_weights_of_training_and_the_fit_says_what_labels_are_worth() -> None:
    curve = tuple(1 / position for position in range(1, 9))
    learning = LearningSettings(batch=32, lr=0.01, examination=curve, max_weight=4.0)
    config = replace(MODELS["mlp"].profiles["tiny"], vocabulary=VOCABULARY)
    own = Learner("mlp", config, learning, device=torch.device("cpu"))
    once = Patience(epochs=1, patience=1)
    # The validation lists are the test lists here, so that their scores are those of the validation loss.
    found = fit(own, SPLIT.train, SPLIT.validation, SPLIT.validation, limits=once, seed=0)
    terms = []
    for each, score in zip(SPLIT.validation, found.score, strict=True):
        (bought,) = np.flatnonzero(each.example.conv)
        chance = np.exp(score[bought]) / np.exp(score[: len(each.example.item_ids)]).sum()
        terms.append(min(each.example.position[bought], 4) * -np.log(chance))
    assert found.epochs[0].validation_loss == pytest.approx(np.mean(terms))
    weights = np.array([min(int(each.example.position[each.example.conv > 0][0]), 4) for each in SPLIT.train])
    assert found.labels is not None
    assert found.labels.num == len(SPLIT.train)
    assert found.labels.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.labels.num_clipped == (weights == 4).sum() > 0
    assert fitted("mlp", epochs=1)[0].labels is None


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs = 0"):
        Patience(epochs=0)
    with pytest.raises(ValueError, match="patience = 0"):
        Patience(patience=0)
