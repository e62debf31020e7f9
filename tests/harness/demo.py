"""The demo as a real process with its own home folder, and the processes that it leaves running."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deploy.demo.scrape import Samples, ScrapeError, scrape
from deploy.demo.summary import DemoSummary
from deploy.supervisor import tail
from stream.errors import BusError
from tests.harness.kafka import JARS, fetch_jars

ROOT = Path(__file__).parents[2]
POLL_S = 0.05
_READY = re.compile(r"(\S+) is ready: http://127\.0\.0\.1:(\d+)/")


class DemoProcess:
    """One `shelfwise demo run`."""

    def __init__(self, home: Path, *options: str, settings: Mapping[str, str] | None = None) -> None:
        with suppress(BusError):  # without Maven the demo chooses the memory broker
            fetch_jars()
        home.mkdir(parents=True, exist_ok=True)
        self.home = home.resolve()
        self.folder = self.home / "demo"
        self._errors = self.home / "demo.err"
        inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
        environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
        environment |= {"SHELFWISE_HOME": str(self.home), "SHELFWISE_LOCAL_KAFKA__JARS": str(JARS), **(settings or {})}
        with (self.home / "demo.out").open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy", "demo", "run", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=ROOT,
            )

    @property
    def said(self) -> str:
        """Standard error so far."""
        return self._errors.read_text(errors="replace")

    def words(self) -> str:
        """Return the last lines of the demo and of its children, for failure messages."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        parts = [f"{path.name}:\n{tail(path, 25)}" for path in [self._errors, *logs]]
        return "\n".join(parts)

    def port(self, child: str) -> int | None:
        """Return the port of a child, or None before the demo has reported it ready."""
        return {name: int(port) for name, port in _READY.findall(self.said)}.get(child)

    def samples(self, child: str) -> Samples:
        """Return the metrics of a child; no samples while it does not answer."""
        port = self.port(child)
        try:
            return scrape(port) if port else Samples(())
        except ScrapeError:
            return Samples(())

    def pid(self, *argv: str) -> int | None:
        """Return the living process of this demo whose command line contains these words in a row."""
        found = [pid for pid in running_in(self.home) if _holds(command_line(pid), argv)]
        assert len(found) < 2, f"{argv}: {found}"
        return found[0] if found else None

    def wait_for(self, what: str, done: Callable[[], bool], timeout_s: float = 600.0) -> None:
        """Wait until `done` returns true; fail if the demo ends first."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert self.process.poll() is None, f"the demo ended while waiting for {what}:\n{self.words()}"
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}:\n{self.words()}"
            time.sleep(POLL_S)

    def finish(self, timeout_s: float = 900.0) -> DemoSummary:
        """Wait until the demo has ended, require success, and return its summary."""
        try:
            code = self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the demo has not ended in {timeout_s:.0f} s:\n{self.words()}") from None
        summary = self.folder / "summary.json"
        found = summary.read_text() if summary.exists() else ""
        assert code == 0, f"the demo ended with code {code}:\n{self.words()}\n{found}"
        return msgspec.json.decode(found, type=DemoSummary)

    def interrupt(self, timeout_s: float = 180.0) -> int:
        """Press Ctrl-C and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the demo did not stop in {timeout_s:.0f} s:\n{self.words()}") from None

    def kill(self) -> None:
        """End the demo by SIGKILL."""
        self.process.kill()
        self.process.wait()


@contextmanager
def demo(home: Path, *options: str, settings: Mapping[str, str] | None = None) -> Iterator[DemoProcess]:
    """Run a demo; afterwards it and every process it started are gone."""
    started = DemoProcess(home, *options, settings=settings)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()
        for pid in running_in(started.home):
            os.kill(pid, signal.SIGKILL)


def running_in(home: Path) -> list[int]:
    """Return the living processes whose environment names this home folder or the demo's in it."""
    wanted = {f"SHELFWISE_HOME={home}".encode(), f"SHELFWISE_HOME={home / 'demo'}".encode()}
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = set((entry / "environ").read_bytes().split(b"\0"))
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            # The process ended meanwhile, or belongs to another user.
            continue
        if state != "Z" and environment & wanted:
            found.append(int(entry.name))
    return sorted(found)


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def wait_until_none(home: Path, timeout_s: float = 15.0) -> None:
    """Wait until no process of this home folder is left.

    The kernel ends the children of a killed demo by itself, but not in the same instant.
    """
    _wait_until_gone(home, None, timeout_s)


def wait_until_only(home: Path, argv: tuple[str, ...], timeout_s: float = 15.0) -> None:
    """Wait until the only processes of this home folder are those whose command line contains these words in a row."""
    _wait_until_gone(home, argv, timeout_s)


def _wait_until_gone(home: Path, spared: tuple[str, ...] | None, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in running_in(home) if not (spared and _holds(command_line(pid), spared))]:
        assert time.monotonic() < deadline, f"still running: {[command_line(pid) for pid in left]}"
        time.sleep(POLL_S)


def _holds(command: Sequence[str], argv: Sequence[str]) -> bool:
    return any(list(argv) == list(command[k : k + len(argv)]) for k in range(len(command)))
