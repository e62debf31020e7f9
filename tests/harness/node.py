"""Locked npm packages for tests, installed once per lock under `.shelfwise/node`, where `make clean` finds them."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL_TIMEOUT_S = 600


def node_folder(name: str) -> Path:
    """Return a copy of `tests/<name>` with its packages installed; skips the test where npm is missing."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; Node 20 or newer runs this check")
    source = ROOT / "tests" / name
    target = ROOT / ".shelfwise" / "node" / name
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, target / path.name)
    wanted = sha256((source / "package-lock.json").read_bytes()).hexdigest()
    stamp = target / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=target,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        stamp.write_text(wanted)
    return target
