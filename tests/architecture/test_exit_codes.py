"""The README lists the exit codes that commands return."""

import re
from pathlib import Path

from deploy.commands.output import Exit

README = Path(__file__).parents[2] / "README.md"
_ROW = re.compile(r"^\| *(\d+) *\| *\S.*\|$")


def test_the_readme_lists_the_exit_codes() -> None:
    _, _, table = README.read_text(encoding="utf-8").partition("| exit code |")
    rows = table.splitlines()[2:]
    end = next((at for at, line in enumerate(rows) if not line.startswith("|")), len(rows))
    listed = [int(found[1]) for line in rows[:end] if (found := _ROW.match(line))]
    assert listed == sorted(Exit)
