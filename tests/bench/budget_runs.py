"""Runs of page rankers under labelling budgets: each repetition trains teachers, then all rows on the same grades."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream.errors import ShelfwiseError
from tests.bench.budget_tables import Record, Records, tables
from tests.bench.page_rankers import (
    BUDGETS,
    Arm,
    Floats,
    Lists,
    graded,
    incoming,
    learn,
    quality,
    right_pairs,
    scores_of,
    taught,
    teach,
)
from trainer.features import SessionExample
from trainer.learning.determinism import make_deterministic


@dataclass(frozen=True, kw_only=True)
class Task:
    """The data of one repetition.

    Attributes:
        types: Item types of the lists, each of which has a teacher.
        logs: Lists that teachers learn from, by kind of teachers; those named `log` choose the items to grade.
        pages: Pages to grade.
        ungraded: As many lists without grades.
        test: Pages on which rankers are compared.
        chosen: [B,n] grades of the pages by annotators.
        truth: [B,n] grades of the pages to compare on.
        orders: The expected orders of those pages in the order of scores [B,n]; None where no one knows them.
    """

    types: Sequence[str]
    logs: Mapping[str, Sequence[SessionExample]]
    pages: Lists
    ungraded: Lists
    test: Lists
    chosen: Floats
    truth: Floats
    orders: Callable[[Floats], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A benchmark: its rows, and what is the same in all of its repetitions.

    Attributes:
        unit: Name of a repetition.
        arms: The rows; the first one has no teachers.
        epochs: Passes over the graded pages.
        records: File of results, to which the run adds.
    """

    unit: str
    arms: Sequence[Arm]
    epochs: int
    records: Path | None

    @classmethod
    def of(cls, unit: str, arms: Sequence[Arm], args: argparse.Namespace) -> "Plan":
        """Return the plan of a command whose options are those of `add_options`."""
        rows = (arms[0], *(arms[int(each)] for each in args.rows.split(","))) if args.rows else tuple(arms)
        return cls(unit=unit, arms=rows, epochs=args.epochs, records=args.records)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks of labelling budgets have."""
    parser.add_argument("--epochs", type=int, default=10, help="passes over the graded pages")
    parser.add_argument("--rows", default="", help="numbers of rows beside labels alone, by commas; by default all")
    parser.add_argument("--records", type=Path, help="file of results, to which the run adds: the tables are of all")


def run(plan: Plan, seeds: Sequence[int], build: Callable[[int], Task], *, ranker_seed: int | None = None) -> None:
    """Run repetitions one after the other and print the tables after each; exit with 2 where data or records are bad.

    Args:
        plan: The benchmark.
        seeds: Seeds of the repetitions, and of their teachers.
        build: Return the data of a repetition.
        ranker_seed: Seed of the page rankers of all repetitions; by default that of each repetition.
    """
    try:
        records = Records(plan.records)
        for seed in seeds:
            records.check_new(seed)
        if not seeds and records.found:
            sys.stdout.write(tables(records.found, plan.unit) + "\n")
            return
        make_deterministic(1)
        for seed in seeds:
            records.add(measure(plan, seed, build, seed if ranker_seed is None else ranker_seed))
            # After each repetition, so that a run may be ended early.
            sys.stdout.write(tables(records.found, plan.unit) + "\n")
            sys.stdout.flush()
    except ShelfwiseError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


def measure(plan: Plan, seed: int, build: Callable[[int], Task], ranker_seed: int) -> Record:
    """Return the results of one repetition."""
    started = time.monotonic()
    task = build(seed)
    teachers = _teachers(task, seed)
    right = {name: right_pairs(later, task.test) for name, (_, _, later) in teachers.items()}
    as_page = {name: quality(later, task.truth) for name, (_, _, later) in teachers.items()}
    as_shown = incoming(task.test)
    as_page["incoming order"] = quality(as_shown, task.truth)
    base = task.orders(as_shown) if task.orders else 1.0
    pairs = ", ".join(f"{name} {value:.3f}" for name, value in right.items())
    _say(f"{plan.unit} {seed}: {time.monotonic() - started:.0f} s, right pairs {pairs}")
    labels = {name: own[:2] for name, own in teachers.items()}
    found: dict[str, list[float]] = {arm.name: [] for arm in plan.arms}
    orders: dict[str, list[float]] = {arm.name: [] for arm in plan.arms} if task.orders else {}
    for p in BUDGETS:
        grade = graded(task.chosen, task.pages.types, teachers["log"][0], p)
        for arm in plan.arms:
            ranker = learn(task.pages, task.ungraded, arm, labels, grade, epochs=plan.epochs, seed=ranker_seed)
            scores = scores_of(ranker, task.test)
            found[arm.name].append(quality(scores, task.truth))
            said = f"NDCG@10 {found[arm.name][-1]:.4f}"
            if task.orders:
                orders[arm.name].append(task.orders(scores) / base)
                said += f", orders {100 * (orders[arm.name][-1] - 1):+.1f} %"
            share = f"{100 * p:.0f} % ({np.mean(~np.isnan(grade)):.3f} of the items)"
            _say(f"{plan.unit} {seed}: {share}, {arm.name}: {said}")
    _say(f"{plan.unit} {seed}: {time.monotonic() - started:.0f} s")
    return Record(seed=seed, right=right, pages=as_page, quality=found, orders=orders)


def _teachers(task: Task, seed: int) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return the scores of each kind of teachers for pages, lists without grades, and pages to compare on."""
    lists = (task.pages, task.ungraded, task.test)
    found: dict[str, tuple[Floats, Floats, Floats]] = {}
    for name, log in task.logs.items():
        own = teach(log, task.types, seed)
        found[name] = (taught(own, lists[0]), taught(own, lists[1]), taught(own, lists[2]))
    found["perfect"] = (task.pages.worth, task.ungraded.worth, task.test.worth)
    return found


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
