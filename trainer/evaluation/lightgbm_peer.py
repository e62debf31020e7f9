"""LightGBM LambdaMART on the columns of the lists: the peer that a neural re-ranker has to beat.

The peer sees what a model sees, ids left out: the numbers of the items with their list-relative forms, the incoming
rank, the visit's touches, and the context. Two forms that trees cannot compute are added: the distance in ranks to the
last touched item, and the steps since an item was touched. The package is optional.

Source: Burges 2010, From RankNet to LambdaRank to LambdaMART; https://lightgbm.readthedocs.io.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.errors import ConfigError
from trainer.evaluation.lists import LabelledList, padded
from trainer.evaluation.metrics import Floats
from trainer.extras import INSTALL
from trainer.features import NUM_COLUMNS, SessionExample
from trainer.features.relative import average_ranks

Matrix = NDArray[np.float32]

LIGHTGBM = "lightgbm"
_LAST = NUM_COLUMNS.index("touch_last")
_TOUCHES = [NUM_COLUMNS.index(name) for name in ("touch_count", "touch_recency")]
_NEVER_TOUCHED = 99.0
_MAX_TREES = 1_000
_PATIENCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFit:
    """The peer's scores [B,n] of the test lists, padded, and its number of trees."""

    score: Floats
    num_trees: int


def fit(
    train: Sequence[LabelledList],
    validation: Sequence[LabelledList],
    test: Sequence[LabelledList],
    *,
    from_schema: bool,
    seed: int,
    threads: int,
) -> PeerFit:
    """Train LambdaMART with early stopping on validation NDCG@10, and score the test lists.

    Args:
        train: Lists to train; the target is `conv`, or the grade where the data are graded.
        validation: Lists that decide the number of trees.
        test: Lists to score.
        from_schema: Whether the numbers are those of the feature schema.
        seed: Of sampling, and of the order of the rows: LightGBM breaks ties of its NDCG by the order of rows.
        threads: Threads of LightGBM.

    Raises:
        ConfigError: If LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError(f"lightgbm is not installed: {INSTALL} installs it") from error
    rng = np.random.default_rng(seed)
    x, y, sizes = _matrix(train, rng, from_schema=from_schema)
    x_validation, y_validation, sizes_validation = _matrix(validation, rng, from_schema=from_schema)
    booster = lightgbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "learning_rate": 0.05,
            "num_leaves": 31,
            "min_data_in_leaf": 50,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads,
            "verbose": -1,
        },
        lightgbm.Dataset(x, y, group=sizes),
        num_boost_round=_MAX_TREES,
        valid_sets=[lightgbm.Dataset(x_validation, y_validation, group=sizes_validation)],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
    sizes = [len(each.example.item_ids) for each in test]
    x_test = np.concatenate([columns(each.example, from_schema=from_schema) for each in test])
    rows = np.split(np.asarray(booster.predict(x_test), dtype=np.float64), np.cumsum(sizes)[:-1])
    return PeerFit(score=padded(rows, (len(test), max(sizes))), num_trees=int(booster.best_iteration))


def columns(example: SessionExample, *, from_schema: bool) -> Matrix:
    """Return the peer's columns of a list, one row per item.

    Shapes: (n, columns).
    """
    n = len(example.item_ids)
    if not from_schema:
        return np.concatenate([example.num, _relative(example.num)], axis=1)
    rank = example.rank.astype(np.float32)[:, None]
    touched = np.flatnonzero(example.num[:, _LAST] > 0)
    distance = rank - rank[touched[0], 0] if touched.size else np.full((n, 1), np.nan, np.float32)
    history = [bytes(item) for item in example.hist_entity[:, 0]]
    newest = {item: len(history) - 1 - step for step, item in enumerate(reversed(history))}
    steps = np.array([[newest.get(bytes(item), np.nan)] for item in example.entity[:, 0]], dtype=np.float32)
    touches = np.concatenate([example.num[:, _TOUCHES], np.nan_to_num(steps, nan=_NEVER_TOUCHED)], axis=1)
    whole = np.array([n, len(history), touched.size, *example.query], dtype=np.float32)
    return np.concatenate(
        [example.num, rank, distance, np.abs(distance), steps, _relative(touches), np.tile(whole, (n, 1))],
        axis=1,
        dtype=np.float32,
    )


def _relative(values: Matrix) -> Matrix:
    """Return min-max position, average rank / n and difference to the mean of each column within the list."""
    low = values.min(axis=0)
    spread = values.max(axis=0) - low
    minmax = (values - low) / np.where(spread > 0, spread, 1)
    ranks = average_ranks(values[None], np.ones((1, len(values)), np.bool_))[0]
    return np.concatenate([minmax, ranks / len(values), values - values.mean(axis=0)], axis=1)


def _matrix(
    lists: Sequence[LabelledList], rng: np.random.Generator, *, from_schema: bool
) -> tuple[Matrix, NDArray[np.int64], list[int]]:
    """Return columns, grades and sizes of lists, each list's rows in random order."""
    x: list[Matrix] = []
    y: list[NDArray[np.int64]] = []
    for each in lists:
        rows = rng.permutation(len(each.example.item_ids))
        x.append(columns(each.example, from_schema=from_schema)[rows])
        grade = (each.example.conv > 0) if from_schema else each.grade
        y.append(grade[rows].astype(np.int64))
    return np.concatenate(x), np.concatenate(y), [len(own) for own in y]
