"""A report of the coverage of lines and branches: by package, and by module where it is below 95 %.

Run it as `python -m tests.architecture.coverage_report < FILE`, where FILE comes from `coverage json`.
`coverage_reasons.txt` names the reason for each module that stays below; the report marks a module that has none.

Source: tests/README.md, Coverage.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

WANTED = 95.0
REASONS = Path(__file__).parent / "coverage_reasons.txt"


def read_reasons(text: str) -> dict[str, str]:
    """Return module to reason: a line without indentation is a reason, the indented lines below name its modules.

    >>> read_reasons("runs in a child process\\n  deploy/a.py\\n  deploy/b.py\\n")
    {'deploy/a.py': 'runs in a child process', 'deploy/b.py': 'runs in a child process'}
    """
    reasons, reason = {}, ""
    for line in text.splitlines():
        if line.startswith(" "):
            reasons[line.strip()] = reason
        elif line and not line.startswith("#"):
            reason = line
    return reasons


def report(files: Mapping[str, Mapping[str, float]], reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        files: Path of a module to its summary, as `coverage json` writes it.
        reasons: Path of a module to the reason why it stays below.
    """
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0])
    for path, summary in files.items():
        for key in (path.partition("/")[0], "all"):
            totals[key][0] += summary["covered_lines"] + summary.get("covered_branches", 0)
            totals[key][1] += summary["num_statements"] + summary.get("num_branches", 0)
    for key, (covered, total) in sorted(totals.items(), key=lambda item: (item[0] == "all", item[0])):
        yield f"coverage of {key}: {100 * covered / max(total, 1):.1f} % of {total:.0f} lines and branches"
    for path, summary in sorted(files.items()):
        if summary["percent_covered"] < WANTED:
            yield f"  {summary['percent_covered']:5.1f} % {path}: {reasons.get(path, 'NO REASON GIVEN')}"


def main() -> None:
    """Print the report of the coverage on standard input."""
    files = json.load(sys.stdin)["files"]
    summaries = {path: content["summary"] for path, content in files.items()}
    sys.stdout.writelines(f"{line}\n" for line in report(summaries, read_reasons(REASONS.read_text())))


if __name__ == "__main__":
    main()
