"""A reader finds the tests of a module by its name, and the files that the map of the tests names."""

import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("stream", "abtest", "trainer", "serving", "deploy")
LIST = Path(__file__).parent / "words" / "tested_elsewhere.txt"


def _modules() -> list[str]:
    """Return the modules of the product, without packages that only re-export."""
    return sorted(
        str(path.relative_to(ROOT))
        for name in PRODUCT
        for path in (ROOT / name).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"} and "migrations" not in path.parts
    )


def _mirror(module: str) -> Path:
    path = ROOT / "tests" / module
    return path.with_name(f"test_{path.name}")


def _unmirrored() -> list[str]:
    return [name for name in _modules() if not _mirror(name).is_file()]


def _tested_elsewhere() -> dict[str, list[str]]:
    """Return pattern to the places of its tests, from `tested_elsewhere.txt`."""
    found: dict[str, list[str]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            patterns, places, _reason = line.split("|")
            found |= {pattern.strip(): places.strip().split(", ") for pattern in patterns.split(",")}
    return found


def _matches(name: str, pattern: str) -> bool:
    """Return whether the pattern names the module; a star at its start crosses folders, any other does not."""
    return fnmatch(name, pattern) and (pattern.startswith("*") or name.count("/") == pattern.count("/"))


def test_a_module_has_its_test_file_or_is_listed() -> None:
    patterns = _tested_elsewhere()
    assert [name for name in _unmirrored() if not any(_matches(name, each) for each in patterns)] == []


def test_the_list_holds_nothing_that_is_not_needed() -> None:
    unmirrored = _unmirrored()
    stale = [each for each in _tested_elsewhere() if not any(_matches(name, each) for name in unmirrored)]
    assert stale == []


def test_the_listed_tests_exist() -> None:
    named = {each for places in _tested_elsewhere().values() for each in places}
    assert [each for each in sorted(named) if not (ROOT / "tests" / each).exists()] == []


def test_the_map_of_the_tests_names_files_that_exist() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = (ROOT, ROOT / "tests", ROOT / "tests" / "stream", ROOT / "tests" / "harness")
    inside = {path.name for folder in ("trainer", "serving", "laws") for path in (ROOT / "tests" / folder).iterdir()}
    named = {each for each in re.findall(r"`([\w/]+(?:\.py|/))`", text) if "name.py" not in each and "NAME" not in each}
    gone = {each for each in named if each not in inside and not any((folder / each).exists() for folder in folders)}
    assert gone - {".hypothesis/", "docs/"} == set()
