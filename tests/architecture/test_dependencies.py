"""Dependencies are declared where they are imported, and imported where they are declared."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("stream", "abtest", "trainer", "serving", "deploy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Dependencies that no module of the product imports.
LOADED_OTHERWISE = {
    "click": "Typer builds on it; Faust bounds its version",
    "confluent-kafka": "the memory broker loads the library inside its wheel",
    "mode-streaming": "Faust builds on it; exact because the worker overrides its methods",
    "uvloop": "uvicorn's event loop",
    "wordllama": "its weights and tokenizer are read as files",
}
# Imported by tests to pin how a dependency uses it.
BROUGHT = {"intervaltree": "Faust tracks acknowledged offsets in it"}
# Development dependencies that no test imports.
TOOLS = {
    "build": "builds the wheel",
    "import-linter": "make check",
    "mypy": "make check",
    "pandas-stubs": "types for mypy",
    "pre-commit": "make hooks",
    "pytest-cov": "make test",
    "pytest-xdist": "make test",
    "ruff": "make check",
    "scipy-stubs": "types for mypy",
    "types-jsonschema": "types for mypy",
}


def _plain(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


RUN = {_plain(each) for each in PROJECT["dependencies"]}
DEV = {_plain(each) for each in PROJECT["optional-dependencies"]["dev"]}
# Extras, which `make setup-extras` installs.
EXTRAS = {_plain(each) for name, wanted in PROJECT["optional-dependencies"].items() if name != "dev" for each in wanted}


@cache
def _imported(folder: str) -> dict[str, set[str]]:
    """Return the distributions that modules of `folder` import, each with the modules that do."""
    owners = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                package = name.split(".")[0]
                if package in sys.stdlib_module_names or package in (*PRODUCT, "tests"):
                    continue
                for owner in owners.get(package, [f"nothing that is installed ({package})"]):
                    found.setdefault(owner.lower().replace("_", "-"), set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("folder", PRODUCT)
def test_the_product_imports_only_declared_dependencies(folder: str) -> None:
    undeclared = {name: where for name, where in _imported(folder).items() if name not in RUN | EXTRAS}
    assert undeclared == {}


def test_tests_import_only_declared_dependencies() -> None:
    undeclared = {
        name: where for name, where in _imported("tests").items() if name not in RUN | DEV | EXTRAS | set(BROUGHT)
    }
    # Contenders of the benchmark live in an environment of their own.
    assert {name: w for name, w in undeclared.items() if not all(x.startswith("tests/bench/peers/") for x in w)} == {}


def test_declared_dependencies_are_imported_or_say_why_not() -> None:
    used = {name for folder in PRODUCT for name in _imported(folder)}
    assert (RUN | EXTRAS) - used == set(LOADED_OTHERWISE)


def test_declared_development_dependencies_are_imported_or_say_why_not() -> None:
    assert DEV - set(_imported("tests")) == set(TOOLS)


@pytest.mark.parametrize(("lock", "wanted"), [("run", RUN), ("extras", RUN | EXTRAS), ("dev", RUN | EXTRAS | DEV)])
def test_a_lock_holds_every_declared_package_with_digests(lock: str, wanted: set[str]) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    pinned = {_plain(line) for line in text.splitlines() if line[:1].isalnum()}
    assert wanted <= pinned
    assert text.count("--hash=sha256:") >= len(pinned)
