"""Workers of one port under their supervisor."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import workers
from deploy.supervisor import Supervisor
from tests.serving.live import wait_until

_WORKER = """
import signal, sys, time
from pathlib import Path
own, asked = Path(sys.argv[1]), []

def tell(line):
    with own.open("a") as file:
        file.write(line + "\\n")

def ask(*_):
    asked.append(1)
    tell("asked")

signal.signal(signal.SIGTERM, ask)
tell("started")
while len(asked) < 2:
    time.sleep(0.01)
"""


def test_a_worker_runs_the_command_of_its_supervisor_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = workers.command(["--set", "a=b", "serving", "run", "--port", "0"], port=81, worker=2)
    assert found[1:3] == ["-m", "deploy"]
    assert found[3:] == ["--set", "a=b", "serving", "run", "--port", "0", "--port", "81", "--worker", "2"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert (workers.num_workers(0), workers.num_workers(2)) == (3, 2)


class Running:
    """Workers in a thread, which append to a file for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self.notes: list[str] = []
        self.supervisor = Supervisor(monotonic_s=lambda: 0.0, jitter=lambda: 0.0, notify=self.notes.append)
        self.thread = threading.Thread(
            target=lambda: workers.run(
                self.supervisor,
                lambda worker: [sys.executable, "-c", _WORKER, str(folder / str(worker))],
                num=2,
                drain_s=60.0,
                stopping=self.stopping,
            )
        )
        self.thread.start()

    def lines(self, worker: int) -> list[str]:
        own = self.folder / str(worker)
        return own.read_text().splitlines() if own.exists() else []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    while made.thread.is_alive():
        made.stopping.set()
        made.thread.join(0.1)


def test_requests_to_stop_are_passed_on_and_the_last_worker_is_waited_for(running: Running) -> None:
    wait_until(lambda: all(running.lines(worker) == ["started"] for worker in (1, 2)))
    # Signals that come together are one, so each is awaited.
    os.kill(running.supervisor.pid("worker 2"), signal.SIGTERM)
    wait_until(lambda: running.lines(2) == ["started", "asked"])
    running.stopping.set()
    wait_until(lambda: running.lines(1) == ["started", "asked"])
    wait_until(lambda: running.supervisor.exit_code("worker 2") == 0)
    assert running.thread.is_alive(), "the first worker still drains"
    running.stopping.set()
    running.thread.join(60.0)
    assert not running.thread.is_alive()
    assert [running.lines(worker) for worker in (1, 2)] == [["started", "asked", "asked"]] * 2
    assert running.notes == []
