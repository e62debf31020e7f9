"""Chromium without a window, driven over a pipe: real keys, and what the page shows.

Source: Chrome DevTools Protocol, `--remote-debugging-pipe`: messages in JSON, each ended by a zero byte.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
# The browser reads from descriptor 3 and writes to descriptor 4.
_SHELL = 'exec "$@" 3<&{} 4>&{}'
_KEYS = {"Enter": ("Enter", 13, "\r"), "Up": ("ArrowUp", 38, ""), "Down": ("ArrowDown", 40, "")}
_KEYS |= {"Left": ("ArrowLeft", 37, ""), "Right": ("ArrowRight", 39, "")}


def program() -> str:
    """Return the path of the program; skip the test where it is not installed."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs the program chromium")
    return found


class Tab:
    """One page of a browser."""

    def __init__(self, commands: int, answers: int, first: "Tab | None" = None) -> None:
        self._commands, self._answers, self._first = commands, answers, first
        self._number = 0
        self._unread = b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def another(self) -> "Tab":
        """Return a second tab of the same browser, whose pages share what the browser stores."""
        return Tab(self._commands, self._answers, self)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Open an address and return when it is loaded."""
        self.call("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return as soon as an expression is true, which is looked at before each frame."""
        self.value(
            f"new Promise(done => {{ const look = () => ({expression}) ? done() : setTimeout(look, 5); look() }})"
        )

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: characters, `Enter`, `Up`, `Down`, `Left` or `Right`."""
        for key in keys:
            name, code, text = _KEYS[key] if key in _KEYS else (key, ord(key.upper()), key)
            pressed = {"key": name, "windowsVirtualKeyCode": code, "text": text}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **pressed)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def _next(self) -> dict[str, Any]:
        # All tabs share one pipe, of which the first one keeps what is read.
        if self._first is not None:
            return self._first._next()
        while b"\0" not in self._unread:
            read = os.read(self._answers, 1 << 16)
            assert read, "the browser has ended"
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with a new profile in `folder`, and one tab; it ends with the context."""
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()
    arguments = [program(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    shell = ["bash", "-c", _SHELL.format(to_read, to_write), "chromium", *arguments]
    process = subprocess.Popen(
        shell, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_read)
    os.close(to_write)
    try:
        tab = Tab(commands, answers)
        yield tab
        tab._session = None
        tab.call("Browser.close")
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)
