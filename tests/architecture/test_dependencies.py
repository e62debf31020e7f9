"""What the packages import is what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("stream", "abtest", "trainer", "serving", "deploy")
# Declared without an import of their own: a driver that SQLAlchemy loads by name, a library opened through ctypes, and
# releases that Faust leaves unbounded.
INDIRECT = {"psycopg", "confluent-kafka", "click", "mode-streaming"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[\[<>=]", requirement)[0].lower() for requirement in project["dependencies"]}


def imported() -> dict[str, str]:
    distributions = packages_distributions()
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for module in set(modules(path)) - set(sys.stdlib_module_names) - set(PACKAGES):
                name = distributions.get(module, [module])[0].lower().replace("_", "-")
                found[name] = str(path.relative_to(ROOT))
    return found


def modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_every_imported_library_is_declared() -> None:
    assert {name: path for name, path in imported().items() if name not in declared()} == {}


def test_every_declared_library_is_imported() -> None:
    assert declared() - set(imported()) - INDIRECT == set()
    assert declared() >= INDIRECT
