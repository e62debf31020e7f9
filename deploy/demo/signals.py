"""Signals that end a demo: raised once, not lost, and ignored while the processes are stopped."""

import logging
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndSignals:
    """Handlers that turn the first signal into a `KeyboardInterrupt` and ignore later ones.

    Python drops an exception that is raised within its hooks around a fork, and every start of a process runs them.
    The next `sleep` therefore raises it again, and the traceback that Python prints of it is left out. So are log
    records of it: a connection pool that is interrupted while it closes a connection logs what it raises again.
    """

    def __init__(self) -> None:
        self._received = False
        self._former_hook: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in NUMBERS:
            signal.signal(number, self._handle)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_no_interrupt)
        self._former_hook, sys.unraisablehook = sys.unraisablehook, self._on_dropped

    def ignore(self) -> None:
        """Ignore the signals from now on."""
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        self._received = False

    def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises:
            KeyboardInterrupt: If a signal was received, now or before.
        """
        if self._received:
            raise KeyboardInterrupt
        time.sleep(seconds)

    def _on_dropped(self, dropped: "sys.UnraisableHookArgs") -> None:
        if not (self._received and isinstance(dropped.exc_value, KeyboardInterrupt)):
            self._former_hook(dropped)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._received:
            self._received = True
            raise KeyboardInterrupt


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], KeyboardInterrupt)
