"""The five import names belong to Shelfwise alone."""

import importlib
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("stream", "abtest", "trainer", "serving", "deploy")


@pytest.mark.parametrize("name", NAMES)
def test_name_belongs_to_shelfwise_alone(name: str) -> None:
    # An editable install is seen once through its metadata and once through its finder.
    assert set(packages_distributions().get(name, ["shelfwise"])) == {"shelfwise"}
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_ours_from_another_folder(name: str, tmp_path: Path) -> None:
    code = f"import {name}; print({name}.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(ROOT)


@pytest.mark.parametrize("lock", ["boot.txt", "run.txt", "dev.txt"])
def test_locks_carry_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert pins
    assert all("==" in line and line.endswith("\\") for line in pins), "every pin is followed by its hashes"
    neighbours = {"stream-python", "trainer", "serving", "abtest", "deploy", "stream"}
    assert not neighbours & {line.split("==")[0] for line in pins}
