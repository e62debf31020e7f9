"""Runs of labelling budgets: each row of a repetition is measured at each budget, and records are kept."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import budget_runs
from tests.bench.budget_runs import Plan, Task, add_options, measure, run
from tests.bench.budget_tables import Records
from tests.bench.page_rankers import BUDGETS, LABELS_ALONE, Arm, Floats, Lists

ARMS = (LABELS_ALONE, Arm("random teachers", 0.3, "log"), Arm("perfect teachers", 0.3, "perfect"))


WORTH = np.array([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
LISTS = Lists((), WORTH, np.array([[0, 0, 2, 2]] * 2))


def task(seed: int) -> Task:
    return Task(
        types=("product", "video"),
        logs={"log": []},
        pages=LISTS,
        ungraded=LISTS,
        test=LISTS,
        chosen=WORTH,
        truth=WORTH,
        orders=lambda scores: float(2 + scores[0, 0]),
    )


def plan(*options: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return Plan.of("seed", ARMS, parser.parse_args(options))


def test_each_row_is_measured_at_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    graded: list[tuple[str, int, float]] = []

    def learn(pages: Lists, ungraded: Lists, arm: Arm, labels: Any, grade: Floats, *, epochs: int, seed: int) -> Arm:
        assert (epochs, seed) == (3, 5)
        assert set(labels) == {"log", "perfect"}
        graded.append((arm.name, int(np.isfinite(grade).sum()), float(np.nansum(grade))))
        return arm

    monkeypatch.setattr(budget_runs, "teach", lambda log, types, seed: {})
    monkeypatch.setattr(budget_runs, "taught", lambda teachers, lists: -WORTH)
    monkeypatch.setattr(budget_runs, "learn", learn)
    monkeypatch.setattr(budget_runs, "scores_of", lambda arm, lists: WORTH if arm.teacher else -WORTH)
    found = measure(plan("--rows", "2", "--epochs", "3"), 1, task, 5)
    assert found.right == {"log": 0.0, "perfect": 1.0}
    assert found.pages["perfect"] == 1.0
    assert found.pages["log"] < found.pages["incoming order"] < 1.0
    assert found.quality["perfect teachers"] == [1.0] * len(BUDGETS)
    assert found.quality["labels alone"] == [found.pages["log"]] * len(BUDGETS)
    # The expected orders of the incoming order are 2.
    assert found.orders == {"labels alone": [-0.5] * len(BUDGETS), "perfect teachers": [2.5] * len(BUDGETS)}
    # Of each type of two items one is graded, the worst one by these teachers, or both: rows share the grades.
    few, every = (4, 1.0 + 0.0 + 0.0 + 2.0), (8, WORTH.sum())
    assert graded == [(name, *own) for own in (few, few, few, every) for name in ("labels alone", "perfect teachers")]


def test_a_seed_that_is_recorded_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    line = '{"seed":7,"right":{},"pages":{"log":0.5},"quality":{"labels alone":[0.1,0.2,0.3,0.4]}}\n'
    path.write_text(line, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        run(plan("--records", str(path)), [1, 7], task)
    assert "record of seed 7" in capsys.readouterr().err
    assert [each.seed for each in Records(path).found] == [7]
    run(plan("--records", str(path)), [], task)
    assert "| labels alone | 0.1000 | 0.2000 | 0.3000 | 0.4000 |" in capsys.readouterr().out
