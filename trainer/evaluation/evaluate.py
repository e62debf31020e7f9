"""The evaluation of rankers on one split: fits, metrics with their spread over seeds, and paired intervals.

Source: docs/training.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stream.errors import ConfigError
from trainer.evaluation import lightgbm_peer, metrics, neural, simple
from trainer.evaluation.calibration import Calibration, CategoryCalibration, by_category, calibration
from trainer.evaluation.intervals import RESAMPLES, Interval, paired_bootstrap
from trainer.evaluation.lightgbm_peer import LIGHTGBM
from trainer.evaluation.lists import Columns, Dataset, Label, LabelledList, excluded, with_label
from trainer.evaluation.metrics import Floats, Mask
from trainer.evaluation.modalities import CategoryWeights, ModalityWeights
from trainer.evaluation.neural import Epoch, Fit, LabelWeights, Patience
from trainer.evaluation.propensity import PolicyValue, is_randomised, policy_value
from trainer.evaluation.simple import DISPLAYED, RANDOM, SIMPLE
from trainer.learning.learner import Learner

_AT_ONCE = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The rankers to evaluate, and how.

    Attributes:
        models: Models of the product, and `lightgbm`.
        learner: Returns a fresh learner of a model with a seed.
        label: Label that makes an item positive, and the target of training.
        seeds: Fits of each model, with the seeds 0, 1, ...
        limits: Limits of each fit.
        reference: Row that the others are compared with; by default `lightgbm` if it is among the models, else the
            displayed order.
        k: Ranks that orders and GMV are summed over.
        resamples: Resamples of the bootstrap.
        seed: Seed of ties, of the bootstrap and of the random ranker.
        threads: Threads of LightGBM.
    """

    models: Sequence[str]
    learner: Callable[[str, int], Learner]
    label: Label = "order"
    seeds: int = 5
    limits: Patience = field(default_factory=Patience)
    reference: str | None = None
    k: int = 5
    resamples: int = RESAMPLES
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of work that is done: an epoch of a model, or a whole row."""

    row: str
    seed: int
    epoch: Epoch | None = None
    is_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Mean of a metric over seeds, and its standard deviation; None where no list defines it, or with one seed."""

    mean: float | None
    deviation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One ranker.

    Attributes:
        kind: `order` learns nothing, `model` is the product's, `peer` is another's.
        figures: Metric to its mean over lists, and spread over seeds.
        differences: Metric to the paired difference to the reference; empty for the reference itself.
        policy_values: `clicks` and `orders` on the first k ranks if lists had been shown in the ranker's order, by the
            propensities of the log and the scores of the first seed; empty where no place was drawn at random.
        calibration: Of the probabilities within lists, pooled over seeds; only for rankers whose scores are logits.
        categories: The same by query category, of the first seed, for the ten categories with most lists.
        epochs: Epochs of each seed's fit.
        best_epochs: Epoch, or number of trees, that validation chose, by seed.
        num_weights: Dense weights of a model.
        labels: Labels of the training lists under weights by inverse examination, where a model has them.
        modalities: Weights of the fusion units, of the first seed.
        modalities_by_category: The same by query category, for the ten categories with most lists.
    """

    name: str
    kind: str
    num_seeds: int
    figures: Mapping[str, Figure]
    differences: Mapping[str, Interval] = field(default_factory=dict)
    policy_values: Mapping[str, PolicyValue] = field(default_factory=dict)
    calibration: Calibration | None = None
    categories: tuple[CategoryCalibration, ...] = ()
    epochs: tuple[tuple[Epoch, ...], ...] = ()
    best_epochs: tuple[int, ...] = ()
    num_weights: int | None = None
    labels: LabelWeights | None = None
    modalities: tuple[ModalityWeights, ...] = ()
    modalities_by_category: tuple[CategoryWeights, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result: what was evaluated on which lists, and the rows.

    Attributes:
        num_lists: Lists by part of the split.
        num_visits: Visits of the test lists, the units of the bootstrap.
        num_over_boundary: Lists left out because their visit began in an earlier part.
        excluded: Test lists that metrics leave out, by reason.
        num_rejected: Sessions of the data that could not be read, by reason.
        num_shuffled: Test lists that were shuffled.
        num_lost_labels: Labelled items beyond the length that a model reads.
        reference: Row that the others are compared with.
        k: Ranks of the columns `orders@k` and `gmv@k`.
    """

    data: str
    note: str
    label: str
    num_lists: Mapping[str, int]
    num_visits: int
    num_over_boundary: int
    excluded: Mapping[str, int]
    num_rejected: Mapping[str, int]
    num_shuffled: int
    num_lost_labels: int
    reference: str
    seeds: int
    k: int
    rows: tuple[Row, ...]


@dataclass(slots=True, kw_only=True)
class _Scored:
    """Scores [B,n] of one ranker by seed, and the facts of its fits."""

    name: str
    kind: str
    scores: list[Floats]
    fits: list[Fit] = field(default_factory=list)
    num_trees: list[int] = field(default_factory=list)


def evaluate(data: Dataset, request: Request, *, report: Callable[[Progress], None] = lambda _: None) -> Evaluation:
    """Fit the models, score the test lists, and compare all rankers on them.

    Args:
        data: Lists and their split.
        request: Rankers and limits.
        report: Called after each epoch and each fit.

    Raises:
        ConfigError: If the reference is no row, or LightGBM is asked for and not installed.
        LearningHalted: If a model's loss stays not finite.
    """
    test = data.split.test
    names = [*_simple_rows(data), *request.models]
    reference = request.reference or (LIGHTGBM if LIGHTGBM in request.models else names[0])
    if reference not in names:
        raise ConfigError(f"reference '{reference}': expected one of {', '.join(names)}")
    columns = Columns.of(test, request.label, tie_seed=request.seed)
    rows: dict[str, Row] = {}
    values: dict[str, dict[str, Floats]] = {}
    for name in names:
        scored = _scored(name, data, request, report)
        rows[name], values[name] = _row(scored, columns, request)
    compared = [
        rows[name]
        if name == reference
        else _compared(rows[name], values[name], values[reference], columns.visit, request)
        for name in names
    ]
    return Evaluation(
        data=data.name,
        note=data.note,
        label=request.label,
        num_lists={
            "train": len(data.split.train),
            "validation": len(data.split.validation),
            "test": len(test),
        },
        num_visits=len(set(columns.visit)),
        num_over_boundary=data.split.num_over_boundary,
        excluded=excluded(columns),
        num_rejected=data.num_rejected,
        num_shuffled=sum(each.is_shuffled for each in test),
        num_lost_labels=sum(each.num_lost for each in test),
        reference=reference,
        seeds=request.seeds,
        k=request.k,
        rows=tuple(compared),
    )


def _simple_rows(data: Dataset) -> list[str]:
    """Return the rankers without learning that the data define; the reference by default comes first."""
    if not data.has_order:
        return [RANDOM]
    left_out = {"incoming order"} if not simple.is_reordered(data.split.test) else set()
    names = [name for name in SIMPLE if name not in left_out] if data.from_schema else [DISPLAYED]
    return [names[0], RANDOM, *names[1:]]


def _scored(name: str, data: Dataset, request: Request, report: Callable[[Progress], None]) -> _Scored:
    split = data.split
    if name == RANDOM or name in SIMPLE:
        seeds = range(request.seeds) if name == RANDOM else range(1)
        return _Scored(
            name=name, kind="order", scores=[simple.scores(name, split.test, request.seed + seed) for seed in seeds]
        )
    train, validation = with_label(split.train, request.label), with_label(split.validation, request.label)
    found = _Scored(name=name, kind="peer" if name == LIGHTGBM else "model", scores=[])
    for seed in range(request.seeds):
        if name == LIGHTGBM:
            peer = lightgbm_peer.fit(
                train, validation, split.test, from_schema=data.from_schema, seed=seed, threads=request.threads
            )
            found.scores.append(peer.score)
            found.num_trees.append(peer.num_trees)
        else:
            fitted = _fit(name, seed, (train, validation, split.test), request, report)
            found.scores.append(fitted.score)
            found.fits.append(fitted)
        report(Progress(row=name, seed=seed, is_done=True))
    return found


def _fit(
    name: str,
    seed: int,
    parts: tuple[Sequence[LabelledList], Sequence[LabelledList], Sequence[LabelledList]],
    request: Request,
    report: Callable[[Progress], None],
) -> Fit:
    return neural.fit(
        request.learner(name, seed),
        *parts,
        limits=request.limits,
        seed=seed,
        on_epoch=lambda epoch: report(Progress(row=name, seed=seed, epoch=epoch)),
    )


def per_list(score: Floats, columns: Columns, k: int) -> dict[str, Floats]:
    """Return the metrics of each list by name, NaN where a list does not define one.

    Raises:
        ConfigError: If a score is not finite.
    """
    if not np.isfinite(score[columns.mask]).all():
        raise ConfigError("a score of a test list is not finite: the fit has diverged")
    parts = [
        _metrics(score[start : start + _AT_ONCE], columns.part(start, start + _AT_ONCE), k)
        for start in range(0, columns.num_lists, _AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _metrics(score: Floats, columns: Columns, k: int) -> dict[str, Floats]:
    mask, positive = columns.mask, columns.positive
    rank = metrics.ranks(score, mask, columns.tie)
    has_positive = (positive & mask).any(axis=1)
    return {
        "mrr": metrics.reciprocal_rank(rank, positive, mask),
        "gauc": metrics.list_auc(metrics.ranks(score, mask), positive, mask),
        "ndcg@5": np.where(has_positive, metrics.ndcg(rank, columns.grade, mask, 5), np.nan),
        "ndcg@10": np.where(has_positive, metrics.ndcg(rank, columns.grade, mask, 10), np.nan),
        "log_loss": metrics.log_loss(score, positive, mask),
        f"orders@{k}": metrics.value_at(rank, columns.orders, mask, k),
        f"gmv@{k}": metrics.value_at(rank, columns.money, mask, k),
    }


def _row(scored: _Scored, columns: Columns, request: Request) -> tuple[Row, dict[str, Floats]]:
    """Return the row of a ranker, and each metric per list, averaged over seeds."""
    by_seed = [per_list(score, columns, request.k) for score in scored.scores]
    # The scores of a ranker that learns nothing are no logits.
    named = [name for name in by_seed[0] if name != "log_loss" or scored.kind != "order"]
    figures = {name: _figure([_mean(values[name]) for values in by_seed]) for name in named}
    has_positive = (columns.positive & columns.mask).any(axis=1)
    mask: Mask = columns.mask & np.asarray(has_positive)[:, None]
    positive = columns.positive[mask]
    probabilities = [np.exp(metrics.log_probabilities(score, columns.mask))[mask] for score in scored.scores]
    figures["auc"] = _figure([metrics.pooled_auc(own, positive) for own in probabilities])
    is_calibrated = scored.kind == "model" and positive.size > 0
    row = Row(
        name=scored.name,
        kind=scored.kind,
        num_seeds=len(scored.scores),
        figures=figures,
        policy_values=_policy_values(scored.scores[0], columns, request),
        calibration=calibration(np.concatenate(probabilities), np.tile(positive, len(probabilities)))
        if is_calibrated
        else None,
        categories=_by_category(scored.scores[0], mask, columns) if is_calibrated else (),
        epochs=tuple(fitted.epochs for fitted in scored.fits),
        best_epochs=tuple(scored.num_trees or [fitted.best_epoch for fitted in scored.fits]),
        num_weights=scored.fits[0].num_weights if scored.fits else None,
        labels=scored.fits[0].labels if scored.fits else None,
        modalities=scored.fits[0].modalities if scored.fits else (),
        modalities_by_category=scored.fits[0].by_category if scored.fits else (),
    )
    # A mean over seeds of NaN alone is NaN, and numpy would warn of it.
    return row, {name: np.sum([values[name] for values in by_seed], axis=0) / len(by_seed) for name in named}


def _by_category(score: Floats, mask: Mask, columns: Columns) -> tuple[CategoryCalibration, ...]:
    probability = np.exp(metrics.log_probabilities(score, columns.mask))
    return by_category(probability, columns.positive, mask, columns.category)


def _policy_values(score: Floats, columns: Columns, request: Request) -> dict[str, PolicyValue]:
    if not is_randomised(columns.propensity, columns.mask):
        return {}
    parts = [columns.part(start, start + _AT_ONCE) for start in range(0, columns.num_lists, _AT_ONCE)]
    rank = np.concatenate(
        [
            metrics.ranks(score[at * _AT_ONCE : (at + 1) * _AT_ONCE], part.mask, part.tie)
            for at, part in enumerate(parts)
        ]
    )
    return {
        name: policy_value(
            rank,
            shown_BL=columns.shown,
            propensity_BL=columns.propensity,
            label_BL=label,
            mask_BL=columns.mask,
            visit=columns.visit,
            k=request.k,
            resamples=request.resamples,
            seed=request.seed,
        )
        for name, label in (("clicks", columns.clicks), ("orders", columns.orders))
    }


def _compared(
    row: Row, own: Mapping[str, Floats], reference: Mapping[str, Floats], visit: Sequence[str], request: Request
) -> Row:
    differences = {}
    for name, values in own.items():
        if name in reference and not np.isnan(values + reference[name]).all():
            differences[name] = paired_bootstrap(
                values, reference[name], visit, resamples=request.resamples, seed=request.seed
            )
    return replace(row, differences=differences)


def _mean(values: Floats) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _figure(values: Sequence[float | None]) -> Figure:
    known = [value for value in values if value is not None]
    if not known:
        return Figure(mean=None)
    return Figure(mean=float(np.mean(known)), deviation=float(np.std(known, ddof=1)) if len(known) > 1 else None)
