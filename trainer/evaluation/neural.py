"""Fits of the product's models to lists: epochs of the learner's own steps, and the best weights on validation.

Source: docs/training.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from trainer.configs import LearningSettings
from trainer.evaluation.lists import LabelledList, padded
from trainer.evaluation.metrics import Floats, log_loss
from trainer.evaluation.modalities import CategoryWeights, ModalityWeights, WeightSample
from trainer.features import Examples, SessionExample
from trainer.learning.debias import EffectiveLabels, label_weights
from trainer.learning.former import as_floats, score
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists

_SCORED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch of a fit: mean training loss per batch and log loss of the validation lists, both in nats.

    Labels of the validation lists have the weights that labels have in training.
    """

    number: int
    train_loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelWeights:
    """Labels under weights by inverse examination, and how many of equal weight they are worth.

    Attributes:
        num: Labels.
        effective: (sum w)^2 / sum w^2.
        num_clipped: Labels at the largest weight, `learning.max_weight`.
    """

    num: int
    effective: float
    num_clipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted model's scores of the test lists, and how it came to them.

    Attributes:
        score: [B,n] logits, padded.
        epochs: All epochs run.
        best_epoch: Number of the epoch whose weights gave the scores.
        num_weights: Dense weights, embedding rows left out.
        labels: Clicked and bought items of one epoch; None where all weigh the same.
        modalities: Weights of the fusion units, where the model has them.
        by_category: The same by query category.
    """

    score: Floats
    epochs: tuple[Epoch, ...]
    best_epoch: int
    num_weights: int
    labels: LabelWeights | None = None
    modalities: tuple[ModalityWeights, ...] = ()
    by_category: tuple[CategoryWeights, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Limits of a fit: epochs at most, and epochs without a lower validation loss before it stops."""

    epochs: int = 20
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")


def fit(
    learner: Learner,
    train: Sequence[LabelledList],
    validation: Sequence[LabelledList],
    test: Sequence[LabelledList],
    *,
    limits: Patience,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> Fit:
    """Train a fresh learner for some epochs and score the test lists with its best weights.

    Ids are counted over the training lists first, so that an epoch trains the rows that the next one uses. Each epoch
    takes the lists in an order of its own, drawn from the seed.

    Raises:
        LearningHalted: If too many batches in a row were refused.
    """
    rng = np.random.default_rng(seed)
    examples = [each.example for each in train]
    learner.observe(Examples.of(examples))
    learner.at_boundary(0, None)
    size = learner.learning.batch
    epochs: list[Epoch] = []
    best, best_weights = Epoch(number=0, train_loss=np.inf, validation_loss=np.inf), _copy(learner.params)
    for number in range(1, limits.epochs + 1):
        rows = rng.permutation(len(examples))
        losses: list[float] = []
        for start in range(0, len(rows), size):
            batch = [examples[row] for row in rows[start : start + size]]
            step = learner.train(TrainingLists.without_sessions(Examples.of(batch), fresh=False))
            losses.append(sum(step.losses.values()))
        epochs.append(
            Epoch(number=number, train_loss=float(np.mean(losses)), validation_loss=_loss(learner, validation))
        )
        on_epoch(epochs[-1])
        if epochs[-1].validation_loss < best.validation_loss:
            best, best_weights = epochs[-1], _copy(learner.params)
        elif number - best.number >= limits.patience:
            break
    tested = [each.example for each in test]
    scores, weights = _score(learner, best_weights, tested)
    return Fit(
        score=scores,
        epochs=tuple(epochs),
        best_epoch=best.number,
        num_weights=sum(weight.numel() for name, weight in learner.params.items() if not name.startswith("rows.")),
        labels=_label_weights(learner.learning, examples),
        modalities=weights.over_items(),
        by_category=weights.over_queries([each.category for each in tested], [each.query_id for each in tested]),
    )


def _label_weights(learning: LearningSettings, examples: Sequence[SessionExample]) -> LabelWeights | None:
    found = EffectiveLabels()
    num_clipped = 0
    for example in examples:
        weight = label_weights(example.position, learning)
        if weight is None:
            return None
        own = weight[(example.click > 0) & (example.click_weight > 0) | (example.conv > 0)]
        found.add(own)
        num_clipped += int(np.count_nonzero(own >= np.float32(learning.max_weight)))
    return LabelWeights(num=found.num, effective=found.effective, num_clipped=num_clipped)


def _copy(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in params.items()}


def _loss(learner: Learner, lists: Sequence[LabelledList]) -> float:
    """Return the mean log loss of lists with a target, weighed as in training; infinite if a score is not finite."""
    scores, _ = _score(learner, learner.params, [each.example for each in lists])
    target = padded([each.example.conv for each in lists], scores.shape)
    mask = np.arange(scores.shape[1]) < np.array([len(each.example.item_ids) for each in lists])[:, None]
    position = padded([each.example.position.astype(np.float64) for each in lists], scores.shape).astype(np.int32)
    weight = label_weights(position, learner.learning)
    losses = log_loss(scores, target > 0, mask, None if weight is None else weight.astype(np.float64))
    losses = losses[~np.isnan(losses)] if np.isfinite(scores).all() else np.full(1, np.inf)
    return float(losses.mean()) if losses.size else np.inf


def _score(
    learner: Learner, weights: Mapping[str, Tensor], examples: Sequence[SessionExample]
) -> tuple[Floats, WeightSample]:
    rows: list[Floats] = []
    found = WeightSample()
    for start in range(0, len(examples), _SCORED_AT_ONCE):
        part = examples[start : start + _SCORED_AT_ONCE]
        batch, outputs = score(
            learner.model, learner.config, weights, learner.id_maps, examples=Examples.of(part), device=learner.device
        )
        logit = as_floats(outputs.logit)
        rows += [logit[row, : len(example.item_ids)] for row, example in enumerate(part)]
        found.add(outputs, batch)
    return padded(rows, (len(rows), max(map(len, rows), default=0))), found
