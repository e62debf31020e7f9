"""The benchmark of iso-label anchors: rows of each kind of grades, and their table."""

from typing import Any

import numpy as np
import pytest

from tests.bench import anchor_budget
from tests.bench.anchor_budget import ARMS, KINDS, measure, table
from tests.bench.budget_tables import Record
from tests.bench.page_rankers import Arm, Floats, Lists
from tests.bench.test_budget_runs import WORTH, task


def test_each_row_is_measured_with_each_kind_of_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def learn(pages: Lists, ungraded: Lists, arm: Arm, labels: Any, grade: Floats, *, epochs: int, seed: int) -> Arm:
        assert (epochs, seed, set(labels)) == (3, 5, {"log"})
        seen.append((arm.name, int(np.isfinite(grade).sum())))
        return arm

    monkeypatch.setattr(anchor_budget, "teach", lambda log, types, seed: {})
    monkeypatch.setattr(anchor_budget, "taught", lambda teachers, lists: WORTH)
    monkeypatch.setattr(anchor_budget, "learn", learn)
    monkeypatch.setattr(anchor_budget, "scores_of", lambda arm, lists: WORTH if arm.teacher else -WORTH)
    found = measure(task(1), 1, epochs=3, ranker_seed=5)
    # Of two types of two items one each is graded; the searches need the worse product and one or two videos.
    assert found.right == {KINDS[0]: 0.5, KINDS[1]: 0.5, KINDS[2]: 0.625}
    assert seen == [(arm.name, num) for num in (4, 4, 5) for arm in ARMS]
    assert found.quality[ARMS[1].name] == [1.0] * 3
    assert found.quality[ARMS[0].name][0] < 1


def test_the_table_has_means_gains_and_intervals_over_worlds() -> None:
    records = [
        Record(
            seed=seed,
            right=dict.fromkeys(KINDS, 0.25),
            pages={},
            quality={arm.name: [0.5 + at / 100, 0.6, 0.4 + seed / 100] for at, arm in enumerate(ARMS)},
        )
        for seed in (1, 2)
    ]
    lines = table(records).splitlines()
    assert lines[0].endswith("| anchors: 25.0 % of the items |")
    assert f"| {ARMS[1].name} | 0.5100 | 0.6000 | 0.4150 |" in lines
    assert f"| {ARMS[1].name} | +0.0100 (+0.0100 to +0.0100) | " in "\n".join(lines)
    assert any(
        line.startswith(f"| {ARMS[0].name} | -0.0850 (") and line.endswith("| -0.090 -0.080 |") for line in lines
    )
