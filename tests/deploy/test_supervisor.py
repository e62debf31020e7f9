"""The supervisor on real processes."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.supervisor import Child, ChildError, Supervisor, tail


class Clock:
    """A clock that stands still until moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def supervisor(clock: Clock, notes: list[str]) -> Iterator[Supervisor]:
    supervisor = Supervisor(monotonic_s=clock, jitter=lambda: 0.0, notify=notes.append)
    yield supervisor
    supervisor.stop_all()


def _child(tmp_path: Path, code: str, *, restart: bool = True, name: str = "child") -> Child:
    return Child(name=name, argv=(sys.executable, "-c", code), env={}, log=tmp_path / f"{name}.log", restart=restart)


def _wait_for_line(log: Path, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline, f"{line!r} never came: {tail(log)}"
        time.sleep(0.01)


WAITS = "import time; print('ready', flush=True); time.sleep(60)"


def test_a_killed_child_is_restarted_after_its_waiting_time(
    supervisor: Supervisor, clock: Clock, notes: list[str], tmp_path: Path
) -> None:
    supervisor.start(_child(tmp_path, WAITS))
    _wait_for_line(tmp_path / "child.log", "ready")
    first = supervisor.pid("child")
    subprocess.run(["kill", "-9", str(first)], check=True)
    while supervisor.exit_code("child") is None:
        pass
    supervisor.poll()
    assert notes == ["child ended with code -9; restarting in 0.2 s"]
    supervisor.poll()
    assert supervisor.num_restarts("child") == 0, "the waiting time is not over"
    clock.now_s = 0.25
    supervisor.poll()
    assert supervisor.num_restarts("child") == 1
    assert supervisor.pid("child") != first


def test_a_child_that_is_always_wanted_is_restarted_after_a_clean_end_too(
    supervisor: Supervisor, clock: Clock, notes: list[str], tmp_path: Path
) -> None:
    supervisor.start(Child(name="child", argv=(sys.executable, "-c", "pass"), env=None, log=None, always=True))
    for number, at_s in enumerate((0.0, 10.0, 100.0)):
        while supervisor.exit_code("child") is None:
            pass
        clock.now_s = at_s
        supervisor.poll()
        clock.now_s += 5
        supervisor.poll()
        assert supervisor.num_restarts("child") == number + 1
    # The last one ran for more than a minute, by this clock.
    assert [note.rpartition(" in ")[2] for note in notes] == ["0.2 s", "0.5 s", "0.2 s"]


def test_a_child_that_must_not_be_restarted_reports_its_last_lines(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(_child(tmp_path, "print('why it fell'); raise SystemExit(3)", restart=False))
    while supervisor.exit_code("child") is None:
        pass
    with pytest.raises(ChildError, match=r"(?s)code 3.*why it fell"):
        supervisor.poll()


def test_a_child_that_is_done_stays_done(supervisor: Supervisor, notes: list[str], tmp_path: Path) -> None:
    supervisor.start(_child(tmp_path, "pass"))
    while supervisor.exit_code("child") is None:
        pass
    supervisor.poll()
    assert supervisor.exit_code("child") == 0
    assert notes == []


def test_stop_lets_the_child_end_by_itself(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); " + WAITS
    supervisor.start(_child(tmp_path, code))
    _wait_for_line(tmp_path / "child.log", "ready")
    assert supervisor.stop("child") == 7


def test_a_paused_child_waits_and_can_be_stopped(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); " + WAITS
    supervisor.start(_child(tmp_path, code))
    _wait_for_line(tmp_path / "child.log", "ready")
    state = Path(f"/proc/{supervisor.pid('child')}/stat")
    supervisor.pause("child")
    while state.read_text().split()[2] != "T":
        pass
    supervisor.go_on("child")
    while state.read_text().split()[2] == "T":
        pass
    supervisor.pause("child")
    assert supervisor.stop("child") == 7


def test_stop_kills_a_child_that_does_not_listen(supervisor: Supervisor, notes: list[str], tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS
    supervisor.start(_child(tmp_path, code))
    _wait_for_line(tmp_path / "child.log", "ready")
    assert supervisor.stop("child", grace_s=0.2) == -signal.SIGKILL
    assert notes == ["child did not stop within 0 s and was killed"]


def test_children_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    program = f"""
import sys, time
from pathlib import Path
from deploy.supervisor import Child, Supervisor
s = Supervisor(monotonic_s=time.monotonic, jitter=lambda: 0.0, notify=print)
s.start(Child(name="child", argv=(sys.executable, "-c", {WAITS!r}), env={{}}, log=Path({str(log)!r})))
print(s.pid("child"), flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    _wait_for_line(log, "ready")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"child {pid} outlived its supervisor"
        time.sleep(0.01)


def test_an_unknown_program_is_named(supervisor: Supervisor, tmp_path: Path) -> None:
    child = Child(name="ghost", argv=("/no/such/program",), env={}, log=tmp_path / "ghost.log")
    with pytest.raises(ChildError, match=r"ghost: cannot start /no/such/program"):
        supervisor.start(child)


def test_standard_output_can_go_to_a_file_of_its_own(supervisor: Supervisor, tmp_path: Path) -> None:
    code = "import sys; print('document'); print('remark', file=sys.stderr)"
    output, log = tmp_path / "child.json", tmp_path / "child.log"
    supervisor.start(Child(name="child", argv=(sys.executable, "-c", code), env={}, log=log, output=output))
    while supervisor.exit_code("child") is None:
        pass
    assert output.read_text() == "document\n"
    assert log.read_text() == "remark\n"
