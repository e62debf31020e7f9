"""The committed dashboards against Grafana's own TypeScript types."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy.grafana import generate
from tests.harness.node import ROOT, node_folder


def compile_dashboards(folder: Path, dashboards: dict[str, str]) -> str:
    """Return what the TypeScript compiler says; empty means that all types hold."""
    names = []
    for name, text in dashboards.items():
        path = folder / f"{name}.ts"
        path.write_text(
            f"import type {{ Committed }} from './committed';\nexport const it = {text.strip()} satisfies Committed;\n"
        )
        names.append(path)
    try:
        done = subprocess.run(
            ["node", "node_modules/typescript/bin/tsc", "-p", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        for path in names:
            path.unlink()
    assert (done.returncode == 0) == (done.stdout == "")
    return done.stdout


@pytest.mark.slow
def test_dashboards_have_grafanas_types() -> None:
    texts = {name.removesuffix(".json"): content.decode() for name, content in generate.rendered().items()}
    assert compile_dashboards(node_folder("grafana_types"), texts) == ""


MISTAKES = {
    "position": (r'"gridPos": \{', '"gridPosition": {', "gridPosition"),
    "mode": (r'"mode": "absolute"', '"mode": "absolutely"', "absolutely"),
    "version": (r'"schemaVersion": 42', '"schemaVersion": "42"', "number"),
    "hidden": (r'"hide": 0', '"hide": "no"', "hide|assignable"),
}


@pytest.mark.slow
def test_the_compiler_sees_mistakes() -> None:
    good = generate.rendered()["shelfwise-loop.json"].decode()
    texts = {}
    for name, (pattern, replacement, _) in MISTAKES.items():
        texts[name], number = re.subn(pattern, replacement, good, count=1)
        assert number == 1
    said = compile_dashboards(node_folder("grafana_types"), texts)
    _, *found = re.split(r"^(\w+)\.ts\(", said, flags=re.MULTILINE)
    by_file: dict[str, str] = {}
    for name, words in zip(found[::2], found[1::2], strict=True):
        by_file[name] = by_file.get(name, "") + words
    assert by_file.keys() == MISTAKES.keys()
    for name, (_, _, finding) in MISTAKES.items():
        assert re.search(finding, by_file[name])


@pytest.mark.parametrize("name", ["grafana_types", "grafana_contract"])
def test_locks_name_no_registry(name: str) -> None:
    assert '"resolved"' not in (ROOT / "tests" / name / "package-lock.json").read_text()
