"""Signals that end a demo: raised once, not lost, and silent while everything is stopped."""

import signal
import time
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns the first signal into a `KeyboardInterrupt`; later ones do nothing.

    Python drops exceptions that are raised within its hooks around a fork, of which starting a process is full, so
    what was raised there is raised again by the next `sleep`.
    """

    def __init__(self) -> None:
        self._came = False

    def install(self) -> None:
        """Take over the signals from now on."""
        for number in NUMBERS:
            signal.signal(number, self._handle)

    def ignore(self) -> None:
        """Let no signal break off what follows."""
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        self._came = False

    def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises:
            KeyboardInterrupt: If a signal has come, now or before.
        """
        if self._came:
            raise KeyboardInterrupt
        time.sleep(seconds)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._came:
            self._came = True
            raise KeyboardInterrupt
