"""The table of other tools' faults in tests/README.md names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_named_test_exists() -> None:
    _, _, table = (TESTS / "README.md").read_text(encoding="utf-8").partition("## Faults of other tools")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", table)
    assert len(named) > 30
    gone = [each for each in named if f"def {each[1]}(" not in (TESTS / "abtest" / each[0]).read_text(encoding="utf-8")]
    assert gone == []
