"""Worker processes of the ranking service on one port, under one supervisor.

The supervisor reserves the port and accepts no connection; the kernel spreads connections over the workers. A worker
that ends is started again, and meanwhile new connections go to the others. SIGTERM and SIGINT are passed on to all
workers, and the supervisor ends after the last of them.
"""

import os
import sys
from collections.abc import Callable, Sequence
from threading import Event
from typing import Final

from deploy.supervisor import Child, Supervisor

_POLL_S: Final = 0.2
# After its drain a worker closes connections and delivers or spools its outbox.
_CLOSE_S: Final = 15.0


def num_workers(chosen: int) -> int:
    """Return the number of workers: the chosen one, or for 0 one per core that this process may use."""
    return chosen or len(os.sched_getaffinity(0))


def command(arguments: Sequence[str], *, port: int, worker: int) -> list[str]:
    """Return the command line of a worker.

    Args:
        arguments: Those of `shelfwise serving run`, as the supervisor got them.
        port: Port that the supervisor reserved.
        worker: Number of the worker, from 1.
    """
    return [sys.executable, "-m", "deploy", *arguments, "--port", str(port), "--worker", str(worker)]


def run(
    supervisor: Supervisor, argv: Callable[[int], Sequence[str]], *, num: int, drain_s: float, stopping: Event
) -> None:
    """Keep workers running until they are asked to stop, and wait for their ends.

    Args:
        supervisor: A supervisor without children.
        argv: Return the command line of a worker by its number, from 1.
        num: Number of workers.
        drain_s: Seconds that a worker answers on after SIGTERM.
        stopping: Set at each request to stop; a second one ends the drain.

    Raises:
        ChildError: If a worker cannot be started.
    """
    try:
        for worker in range(1, num + 1):
            supervisor.start(Child(name=f"worker {worker}", argv=argv(worker), env=None, log=None, always=True))
        while not stopping.wait(_POLL_S):
            supervisor.poll()
    finally:
        supervisor.stop_together(stopping, drain_s + _CLOSE_S)
