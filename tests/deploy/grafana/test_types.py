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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "replacement", "finding"),
    [
        (r'"gridPos": \{', '"gridPosition": {', "gridPosition"),
        (r'"mode": "absolute"', '"mode": "absolutely"', "absolutely"),
        (r'"schemaVersion": 42', '"schemaVersion": "42"', "number"),
        (r'"hide": 0', '"hide": "no"', "hide|assignable"),
    ],
)
def test_the_compiler_sees_mistakes(pattern: str, replacement: str, finding: str) -> None:
    text, number = re.subn(pattern, replacement, generate.rendered()["shelfwise-loop.json"].decode(), count=1)
    assert number == 1
    assert re.search(finding, compile_dashboards(node_folder("grafana_types"), {"broken": text}))


@pytest.mark.parametrize("name", ["grafana_types", "grafana_contract"])
def test_locks_name_no_registry(name: str) -> None:
    assert '"resolved"' not in (ROOT / "tests" / name / "package-lock.json").read_text()
