"""Shutdown of a process whose libraries may hang.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine

log = logging.getLogger("shelfwise.stream")
STEP_S = 8.0


def exit_deadline(after_s: float) -> threading.Timer:
    """Start a timer that exits the process with status 1 after `after_s` seconds unless it is cancelled.

    Threads and tasks of the transport that hang would keep a worker alive that does no work.
    """
    timer = threading.Timer(after_s, _exit)
    timer.daemon = True
    timer.start()
    return timer


async def finish(step: Coroutine[object, object, None]) -> bool:
    """Run one step of the shutdown and return whether it ended within `STEP_S`, without an error."""
    task = asyncio.get_running_loop().create_task(step)
    await asyncio.wait({task}, timeout=STEP_S)
    error = task.exception() if task.done() and not task.cancelled() else None
    if error is None and task.done():
        return True
    # Everything that matters is confirmed and committed, or will be read again.
    log.warning("unclean shutdown of the transport: %r", error or f"not within {STEP_S:.0f} s")
    task.cancel()
    return False


def _exit() -> None:
    log.error("the transport does not shut down")
    os._exit(1)
