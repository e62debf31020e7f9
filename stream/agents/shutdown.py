"""The end of a process whose libraries may hang.

Source: STREAM.md 2.1, B14.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine

log = logging.getLogger("shelfwise.stream")
STEP_S = 8.0


def last_resort(after_s: float) -> threading.Timer:
    """Start what ends the process with status 1 unless it is cancelled in time.

    Threads and tasks of the transport that hang would keep a worker alive that no longer works.
    """
    timer = threading.Timer(after_s, _end_process)
    timer.daemon = True
    timer.start()
    return timer


async def within(step: Coroutine[object, object, None]) -> bool:
    """Run one step of the end and return whether it was done within `STEP_S`, without an error."""
    task = asyncio.get_running_loop().create_task(step)
    await asyncio.wait({task}, timeout=STEP_S)
    error = task.exception() if task.done() and not task.cancelled() else None
    if error is None and task.done():
        return True
    # What matters is confirmed and committed, or will be read again.
    log.warning("unclean end of the transport: %r", error or f"not within {STEP_S:.0f} s")
    task.cancel()
    return False


def _end_process() -> None:
    log.error("the transport does not end")
    os._exit(1)
