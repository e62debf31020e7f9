"""Iso-label anchors against candidate pages of about as many judgements, in the simulated shop.

`python -m tests.bench.anchor_budget` prints the tables of docs/benchmarks/smar.md, "Iso-label anchors". Worlds,
teachers, annotators and page rankers are those of `tests.bench.label_budget`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stream.errors import ShelfwiseError
from tests.bench.budget_runs import Task
from tests.bench.budget_tables import Record, Records, cell
from tests.bench.label_budget import build
from tests.bench.page_rankers import (
    LABELS_ALONE,
    Arm,
    Floats,
    anchored,
    graded,
    learn,
    quality,
    scores_of,
    taught,
    teach,
)
from trainer.learning.determinism import make_deterministic

SHARES = (0.2, 0.3)
"""Top shares of each type on a candidate page: somewhat fewer judgements than the searches need, and somewhat more."""
ANCHORS = "anchors"
KINDS = (*(f"candidate pages of {100 * p:.0f} %" for p in SHARES), ANCHORS)
ARMS = (
    LABELS_ALONE,
    Arm("teachers of the log", 0.3, "log"),
    Arm("teachers of the log, pairs of two types .3", 0.3, "log", 0.3),
    Arm("teachers of the log, pairs of two types 1", 0.3, "log", 1.0),
    Arm("pairs of two types 1 alone", 0.0, "log", 1.0),
)


def grades_of(task: Task, teacher: Floats) -> dict[str, Floats]:
    """Return the grades [B,n] of the pages by what was asked for, NaN for items that were not judged."""
    pages = [graded(task.chosen, task.pages.types, teacher, p) for p in SHARES]
    return dict(zip(KINDS, [*pages, anchored(task.chosen, task.pages.types, teacher)], strict=True))


def measure(task: Task, seed: int, *, epochs: int, ranker_seed: int) -> Record:
    """Return the share of judged items by kind of grades, and NDCG@10 of each row for each kind."""
    started = time.monotonic()
    teachers = teach(task.logs["log"], task.types, seed)
    labels = {"log": (taught(teachers, task.pages), taught(teachers, task.ungraded))}
    grades = grades_of(task, labels["log"][0])
    found: dict[str, list[float]] = {arm.name: [] for arm in ARMS}
    for kind, grade in grades.items():
        for arm in ARMS:
            ranker = learn(task.pages, task.ungraded, arm, labels, grade, epochs=epochs, seed=ranker_seed)
            found[arm.name].append(quality(scores_of(ranker, task.test), task.truth))
            seconds = time.monotonic() - started
            sys.stderr.write(f"world {seed}: {seconds:.0f} s, {kind}, {arm.name}: {found[arm.name][-1]:.4f}\n")
    judged = {kind: float(np.mean(~np.isnan(grade))) for kind, grade in grades.items()}
    return Record(seed=seed, right=judged, pages={}, quality=found)


def table(records: Sequence[Record]) -> str:
    """Return the rows for each kind of grades, what each gains over labels alone, and anchors over candidate pages."""
    shares = [f"{100 * np.mean([each.right[kind] for each in records]):.1f} %" for kind in KINDS]
    heads = [f"{kind}: {share} of the items" for kind, share in zip(KINDS, shares, strict=True)]
    lines = [f"| row | {' | '.join(heads)} |", "|---" * (1 + len(KINDS)) + "|"]
    for row in records[0].quality:
        means = np.mean([each.quality[row] for each in records], axis=0)
        lines.append(f"| {row} | {' | '.join(f'{mean:.4f}' for mean in means)} |")
    lines += ["", f"| row, less labels alone | {' | '.join(KINDS)} |", "|---" * (1 + len(KINDS)) + "|"]
    for row in [name for name in records[0].quality if name != LABELS_ALONE.name]:
        gains = [cell(_differences(records, (row, k), (LABELS_ALONE.name, k))) for k in range(len(KINDS))]
        lines.append(f"| {row} | {' | '.join(gains)} |")
    for number, kind in enumerate(KINDS[:-1]):
        lines += ["", f"| anchors, less the same row on {kind} | NDCG@10 (interval) | by world |", "|---" * 3 + "|"]
        for row in records[0].quality:
            found = _differences(records, (row, -1), (row, number))
            lines.append(f"| {row} | {cell(found)} | {' '.join(f'{each:+.3f}' for each in found)} |")
    return "\n".join(lines) + "\n"


def _differences(records: Sequence[Record], one: tuple[str, int], other: tuple[str, int]) -> list[float]:
    """Return the differences, by world, of two rows, each with the number of its kind of grades."""
    return [each.quality[one[0]][one[1]] - each.quality[other[0]][other[1]] for each in records]


def run(seeds: Sequence[int], args: argparse.Namespace, path: Path | None) -> None:
    """Measure worlds one after the other, and print the table of all records after each."""
    records = Records(path)
    for seed in seeds:
        records.check_new(seed)
    make_deterministic(1)
    for seed in seeds:
        records.add(measure(build(seed, args), seed, epochs=args.epochs, ranker_seed=args.seed))
        sys.stdout.write(table(records.found) + "\n")
        sys.stdout.flush()
    if not seeds and records.found:
        sys.stdout.write(table(records.found) + "\n")


def options() -> argparse.ArgumentParser:
    """Return the options of the command; sizes are those of `tests.bench.label_budget`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", default="1,2,3,4,5", help="seeds; none prints the table of --records")
    parser.add_argument("--log", type=int, default=16_000, help="lists that teachers learn from")
    parser.add_argument("--pages", type=int, default=300, help="pages to grade, and as many lists without grades")
    parser.add_argument("--test", type=int, default=300, help="later pages on which rankers are compared")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the graded pages")
    parser.add_argument("--seed", type=int, default=1, help="seed of the page rankers")
    parser.add_argument("--records", type=Path, help="file of results, to which the run adds: the table is of all")
    return parser


def main() -> None:
    """Run the command; exit with 2 where records are bad."""
    args = options().parse_args()
    try:
        run([int(each) for each in args.worlds.split(",") if each], args, args.records)
    except ShelfwiseError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
