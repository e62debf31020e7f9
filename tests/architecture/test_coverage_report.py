"""Tests of the report of coverage."""

from pathlib import Path

from tests.architecture.coverage_report import REASONS, read_reasons, report

ROOT = Path(__file__).parents[2]


def _summary(covered: int, total: int) -> dict[str, float]:
    return {
        "covered_lines": covered,
        "num_statements": total,
        "covered_branches": 0,
        "num_branches": 0,
        "percent_covered": 100 * covered / total,
    }


def test_packages_are_added_up_and_modules_below_are_named_with_their_reason() -> None:
    files = {
        "stream/a.py": _summary(10, 10),
        "stream/b.py": _summary(5, 10),
        "trainer/c.py": _summary(8, 10),
    }
    assert list(report(files, {"stream/b.py": "child process"})) == [
        "coverage of stream: 75.0 % of 20 lines and branches",
        "coverage of trainer: 80.0 % of 10 lines and branches",
        "coverage of all: 76.7 % of 30 lines and branches",
        "   50.0 % stream/b.py: child process",
        "   80.0 % trainer/c.py: NO REASON GIVEN",
    ]


def test_each_reason_names_a_module_that_exists() -> None:
    assert [path for path in read_reasons(REASONS.read_text()) if not (ROOT / path).is_file()] == []
