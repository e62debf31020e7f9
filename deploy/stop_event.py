"""The event by which a command learns that it was asked to stop."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Closing(Protocol):
    """The part of a command's context that is needed here; `typer.Context` has it."""

    def call_on_close(self, f: Callable[..., object]) -> object:
        """Call `f` when the command has ended."""


def stop_event(command: Closing) -> threading.Event:
    """Return an event that SIGTERM and SIGINT set until the command ends; the earlier handlers return then."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.signal(number, lambda *_: stopping.set())
        command.call_on_close(partial(signal.signal, number, before))
    return stopping
