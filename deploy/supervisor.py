"""Supervisor of child processes: starts them, restarts those that fail, and leaves none running.

A child runs in a process session of its own: an interrupt at the terminal reaches the supervisor only, which then stops
the children in order. On Linux the kernel also ends a child whose supervisor was killed.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import IO

from stream.backoff import Backoff
from stream.errors import ShelfwiseError

_PR_SET_PDEATHSIG = 1
_STEADY_S = 60.0
_LOOK_S = 0.05


class ChildError(ShelfwiseError):
    """Failure to start a child, or the end with an error of a child that is not restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """Command line, environment and output of one process.

    Attributes:
        env: Environment; None = that of the supervisor.
        log: File that standard error, and without `output` standard output too, is appended to; None = those of the
            supervisor.
        output: File that standard output is written to.
        restart: Start it again if it ends by itself with an error, after a longer waiting time each time. After a
            minute without an end, the shortest time is enough.
        always: Start it again if it ends by itself without an error, too.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None
    log: Path | None
    output: Path | None = None
    restart: bool = True
    always: bool = False


@dataclass(slots=True)
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    log: IO[bytes] | None
    backoff: Backoff
    started_s: float
    num_restarts: int = 0
    restart_at_s: float | None = None


@dataclass(slots=True)
class Supervisor:
    """Set of children that are kept running.

    Args:
        monotonic_s: Clock that never goes back.
        jitter: Source of uniform numbers in [0, 1), which spread restarts.
        notify: Called with one line for each restart.
    """

    monotonic_s: Callable[[], float]
    jitter: Callable[[], float]
    notify: Callable[[str], None]
    _running: dict[str, _Running] = field(default_factory=dict)

    def start(self, child: Child) -> None:
        """Start `child`; its standard output and error are appended to its log.

        Raises:
            ChildError: If a child of that name runs already, or the program cannot be started.
        """
        if child.name in self._running:
            raise ChildError(f"child '{child.name}' runs already")
        with ExitStack() as opened:
            log = None
            if child.log is not None:
                child.log.parent.mkdir(parents=True, exist_ok=True)
                log = opened.enter_context(child.log.open("ab"))
            self._running[child.name] = _Running(
                child=child,
                process=_spawn(child, log),
                log=log,
                backoff=Backoff(random=self.jitter),
                started_s=self.monotonic_s(),
            )
            opened.pop_all()

    def poll(self) -> None:
        """Restart the children that failed and whose waiting time is over.

        Raises:
            ChildError: If a child that is not restarted ended with an error.
        """
        now_s = self.monotonic_s()
        for running in self._running.values():
            code = running.process.poll()
            child = running.child
            if code is None or (code == 0 and not child.always):
                continue
            if not child.restart:
                about = "" if child.log is None else f"; see {child.log}\n{tail(child.log)}"
                raise ChildError(f"{child.name} ended with code {code}{about}")
            if running.restart_at_s is None:
                if now_s - running.started_s >= _STEADY_S:
                    running.backoff.reset()
                wait_s = running.backoff.next_s()
                running.restart_at_s = now_s + wait_s
                self.notify(f"{child.name} ended with code {code}; restarting in {wait_s:.1f} s")
            elif now_s >= running.restart_at_s:
                running.process = _spawn(child, running.log)
                running.num_restarts += 1
                running.started_s = now_s
                running.restart_at_s = None

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of a child, or None while it runs."""
        return self._running[name].process.poll()

    def pid(self, name: str) -> int:
        """Return the process id of a child."""
        return self._running[name].process.pid

    def pause(self, name: str) -> None:
        """Stop a child from running until `go_on`, if it runs."""
        self._running[name].process.send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a paused child run."""
        self._running[name].process.send_signal(signal.SIGCONT)

    def num_restarts(self, name: str) -> int:
        """Return the number of restarts of a child."""
        return self._running[name].num_restarts

    def stop(self, name: str, grace_s: float = 10.0) -> int:
        """Stop a child with SIGTERM, and with SIGKILL if it still runs after `grace_s`; return its exit code."""
        running = self._running.pop(name)
        process = running.process
        if process.poll() is None:
            process.terminate()
            # A paused child would not see it.
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.notify(f"{name} did not stop within {grace_s:.0f} s and was killed")
                process.kill()
                process.wait()
        if running.log is not None:
            running.log.close()
        return process.returncode

    def stop_together(self, asked: Event, grace_s: float) -> None:
        """Stop all children at once with SIGTERM, and with SIGKILL those that still run after `grace_s`.

        Args:
            asked: Set at each further request to stop, which is passed on.
            grace_s: Seconds to wait for their ends.
        """
        end_s = self.monotonic_s() + grace_s
        asked.set()
        while any(each.process.poll() is None for each in self._running.values()) and self.monotonic_s() < end_s:
            if asked.wait(_LOOK_S):
                asked.clear()
                for running in self._running.values():
                    if running.process.poll() is None:
                        running.process.terminate()
        for name in list(self._running):
            self.stop(name, grace_s=0.0)

    def stop_all(self) -> None:
        """Stop every child, the last one started first."""
        for name in reversed(list(self._running)):
            self.stop(name)


def tail(log: Path | None, num_lines: int = 15) -> str:
    """Return the last lines of a log, indented; empty if there is none."""
    if log is None or not log.exists():
        return ""
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-num_lines:])


def _spawn(child: Child, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    output = child.output.open("wb") if child.output else log
    try:
        # Between fork and exec, preexec_fn calls one C function and nothing else.
        process = subprocess.Popen(  # noqa: S603
            list(child.argv),
            env=None if child.env is None else dict(child.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    except OSError as error:
        raise ChildError(f"{child.name}: cannot start {child.argv[0]}: {error}") from error
    finally:
        if output is not None and output is not log:
            output.close()
    return process


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
