"""Tests of the time-outs and deadlines on a machine that booted just now, and on one that has run for a hundred days.

The monotonic clock of Linux counts from the boot. A fixed number that is compared with it, or a zero that stands for
"never yet", works on some machines only. A time namespace starts the clock of a child process elsewhere.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# `make test` itself runs on a machine that has been up for longer than 15 s.
_UPTIMES_S = (15, pytest.param(9_000_000, marks=pytest.mark.system))
_CLOCK_SENSITIVE = (
    "stream/agents/watchdog.py",
    "stream/agents/fencing.py",
    "tests/stream/agents/test_assignment.py",
    "tests/stream/agents/test_heartbeat.py",
    "tests/stream/agents/test_fencing.py",
    "tests/stream/agents/test_commit_barrier.py",
    "tests/deploy/test_supervisor.py",
    "tests/serving/ranking/test_replicas.py",
)


def _shifted(uptime_s: int, *command: str) -> list[str]:
    """Return a command that runs `command` with the clocks of a machine that booted `uptime_s` seconds ago."""
    offset_s = str(uptime_s - int(time.clock_gettime(time.CLOCK_BOOTTIME)))
    return ["unshare", "--time", "--monotonic", offset_s, "--boottime", offset_s, "--fork", *command]


def _refusal() -> str | None:
    """Return why this machine makes no time namespaces, or None if it does."""
    try:
        done = subprocess.run(_shifted(1_000, "true"), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "the command unshare of util-linux is missing"
    return None if done.returncode == 0 else done.stderr.strip()


@pytest.mark.slow
@pytest.mark.parametrize("uptime_s", _UPTIMES_S)
def test_clock_sensitive_parts_do_not_depend_on_the_time_since_the_boot(uptime_s: int) -> None:
    reason = _refusal()
    if reason is not None:
        pytest.skip(f"time namespaces are not allowed here: {reason}")
    read_clock = "import time; print(time.monotonic())"
    clock = subprocess.run(
        _shifted(uptime_s, sys.executable, "-c", read_clock), capture_output=True, text=True, check=True
    )
    assert 0 <= float(clock.stdout) - uptime_s < 300, "the clock was not shifted"
    tests = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not kafka and not postgres and not system")
    done = subprocess.run(
        _shifted(uptime_s, sys.executable, *tests, *_CLOCK_SENSITIVE),
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert done.returncode == 0, f"after {uptime_s} s:\n{done.stdout[-8_000:]}{done.stderr[-2_000:]}"
