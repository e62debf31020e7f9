"""Page rankers that learn from few grades, with and without teachers: the parts that all benchmarks of them share.

All page rankers of a comparison learn from the same grades, in the same steps; they differ in what else they learn:
nothing, or the order of teachers of some quality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.annotation.anchors import next_places
from trainer.annotation.pages import top
from trainer.configs import LEARNING_PROFILES, MODEL_PROFILES
from trainer.configs.smar import PROFILES
from trainer.evaluation.metrics import ndcg, ranks
from trainer.features import Examples, SessionExample
from trainer.features.item_types import ITEM_TYPES
from trainer.learning.former import score
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists
from trainer.models.batch import PageLabels

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
BUDGETS = (0.1, 0.2, 0.3, 1.0)
BATCH, PAGES_OF_STEP, BOUNDARY_EVERY = 64, 16, 20
LEARNING = replace(LEARNING_PROFILES["tiny"], batch=BATCH, lr=1e-3)


@dataclass(frozen=True)
class Arm:
    """A way to learn pages: the weight of the teachers' orders, and the teachers; the first one has none.

    Attributes:
        anchor: Weight of the pairs of two types that grades and teachers imply together.
    """

    name: str
    alpha: float = 0.0
    teacher: str = ""
    anchor: float = 0.0


LABELS_ALONE = Arm("labels alone")


@dataclass(frozen=True)
class Lists:
    """Lists of n items with what only the truth knows about them.

    Attributes:
        worth: [B,n] worth of each item on its page.
        types: [B,n] place of its type in `ITEM_TYPES`.
    """

    examples: Sequence[SessionExample]
    worth: Floats
    types: NDArray[np.int64]


def graded(chosen: Floats, types: NDArray[np.int64], teacher: Floats, p: float) -> Floats:
    """Return the grades [B,n] of the top share p of each type by the teacher, NaN for the others."""
    found = np.full(chosen.shape, np.nan)
    for row in range(len(chosen)):
        places = top([ITEM_TYPES[kind] for kind in types[row].tolist()], teacher[row].tolist(), p)
        found[row, places] = chosen[row, places]
    return found


def anchored(chosen: Floats, types: NDArray[np.int64], teacher: Floats) -> Floats:
    """Return the grades [B,n] that the searches for iso-label anchors ask for by the teacher, NaN for the others."""
    found = np.full(chosen.shape, np.nan)
    for row in range(len(chosen)):
        names, scores = [ITEM_TYPES[kind] for kind in types[row].tolist()], teacher[row].tolist()
        while places := next_places(names, scores, [None if np.isnan(own) else own for own in found[row].tolist()]):
            found[row, places] = chosen[row, places]
    return found


def teach(log: Sequence[SessionExample], types: Sequence[str], seed: int) -> dict[str, Learner]:
    """Return a teacher of each type: DIN, in one pass over the clicks and orders of a log."""
    config = replace(MODEL_PROFILES["din"]["tiny"], clicked_weight=1.0)
    batches = [Examples.of(log[start : start + BATCH]) for start in range(0, len(log), BATCH)]
    found = {}
    for name in types:
        learning = replace(LEARNING, seed=seed, item_type=name)  # type: ignore[arg-type]
        learner = Learner("din", config, learning, device=CPU)
        for number, batch in enumerate(batches):
            learner.train(TrainingLists.without_sessions(batch, fresh=True))
            if number % BOUNDARY_EVERY == BOUNDARY_EVERY - 1:
                learner.at_boundary(0, None)
        found[name] = learner
    return found


def taught(teachers: Mapping[str, Learner], lists: Lists) -> Floats:
    """Return the scores [B,n] of the teacher of each item's type."""
    found = np.zeros(lists.worth.shape)
    for name, own in teachers.items():
        for start in range(0, len(found), 256):
            rows = slice(start, start + 256)
            examples = Examples.of(lists.examples[rows])
            _, outputs = score(
                own.model, own.config, own.params, own.id_maps, examples=examples, device=CPU, item_type=name
            )
            of_type = lists.types[rows] == ITEM_TYPES.index(name)
            found[rows] = np.where(of_type, outputs.logit.numpy(), found[rows])
    return found


def right_pairs(scores: Floats, lists: Lists) -> float:
    """Return the share of pairs of one type, of one list, that scores order as their worth."""
    right = total = 0
    for row in range(len(scores)):
        same = np.equal.outer(lists.types[row], lists.types[row])
        better = same & (np.subtract.outer(lists.worth[row], lists.worth[row]) > 0)
        right += int((np.subtract.outer(scores[row], scores[row])[better] > 0).sum())
        total += int(better.sum())
    return right / total


def learn(
    pages: Lists,
    ungraded: Lists,
    arm: Arm,
    teachers: Mapping[str, tuple[Floats, Floats]],
    grade: Floats,
    *,
    epochs: int,
    seed: int,
) -> Learner:
    """Return a page ranker that has learned the graded pages and, with teachers, their orders on all lists.

    Args:
        pages: The pages that are graded.
        ungraded: Lists without grades.
        arm: The way to learn.
        teachers: Scores of each kind of teachers for the pages and for the lists without grades.
        grade: [B,n] grades of the pages, NaN where there is none.
        epochs: Passes over the pages.
        seed: Seed of the weights and of the order of the pages.
    """
    config = replace(PROFILES["tiny"], consistency=arm.alpha, anchor_weight=arm.anchor)
    learner = Learner("smar", config, replace(LEARNING, seed=seed), device=CPU)
    both = [*pages.examples, *(ungraded.examples if arm.teacher else ())]
    learner.observe(Examples.of([*pages.examples, *ungraded.examples]))
    learner.at_boundary(0, None)
    n = grade.shape[1]
    none = np.full((len(both), n), np.nan)
    teacher = np.concatenate(teachers[arm.teacher]) if arm.teacher else none
    grade = np.concatenate([grade, np.full((len(both) - len(grade), n), np.nan)])
    types = np.concatenate([pages.types, ungraded.types])[: len(both)]
    rng, num_pages = np.random.default_rng(seed), len(pages.examples)
    for _ in range(epochs):
        order, other = rng.permutation(num_pages), rng.permutation(num_pages) + num_pages
        for start in range(0, num_pages, PAGES_OF_STEP):
            rows = order[start : start + PAGES_OF_STEP]
            if arm.teacher:
                rows = np.concatenate([rows, other[start : start + PAGES_OF_STEP]])
            labels = PageLabels(teacher[rows].astype(np.float32), grade[rows].astype(np.float32), types[rows])
            lists = Examples.of([both[row] for row in rows.tolist()])
            silent = replace(lists, click=np.zeros_like(lists.click), conv=np.zeros_like(lists.conv))
            learner.train(TrainingLists.without_sessions(silent, fresh=False, page=labels))
    return learner


def scores_of(learner: Learner, lists: Lists) -> Floats:
    """Return the scores [B,n] of a page ranker."""
    found = []
    for start in range(0, len(lists.examples), 256):
        examples = Examples.of(lists.examples[start : start + 256])
        _, outputs = score(
            learner.model, learner.config, learner.params, learner.id_maps, examples=examples, device=CPU
        )
        found.append(outputs.logit.numpy().astype(np.float64))
    return np.concatenate(found)


def quality(scores: Floats, grade: Floats) -> float:
    """Return the mean NDCG@10 of pages by their grades [B,n]; items of equal scores stay in their order."""
    mask, tie = np.ones(scores.shape, np.bool_), np.tile(np.arange(scores.shape[1], dtype=np.uint64), (len(scores), 1))
    return float(np.nanmean(ndcg(ranks(scores, mask, tie), grade, mask, 10)))


def incoming(lists: Lists) -> Floats:
    """Return scores [B,n] that keep the incoming order."""
    num_pages, n = lists.worth.shape
    return np.tile(-np.arange(n, dtype=np.float64), (num_pages, 1))
