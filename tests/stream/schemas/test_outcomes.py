"""Outcomes and reason codes."""

import re
from pathlib import Path

import pytest

from stream.schemas.outcomes import DEAD, LATE, ORPHAN, OUTCOME_OF_REASON, OUTCOMES, open_count

DOCS = Path(__file__).parents[3] / "docs/stream.md"


def test_the_documentation_explains_every_reason_code() -> None:
    table = DOCS.read_text(encoding="utf-8").split("## Outcomes")[1].split("\n## ")[0]
    documented = {
        reason: row[1].strip()
        for row in (line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| `"))
        for reason in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == OUTCOME_OF_REASON


def test_a_reason_belongs_to_an_outcome_that_did_not_join() -> None:
    assert set(OUTCOME_OF_REASON.values()) == {LATE, ORPHAN, DEAD}
    assert {LATE, ORPHAN, DEAD} < set(OUTCOMES)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_unit_with_an_outcome_is_not_open(outcome: str) -> None:
    assert open_count({"produced": 3, outcome: 1, "too_late": 9}) == 2
