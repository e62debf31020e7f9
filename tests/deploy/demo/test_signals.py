"""Signals to the process of a demo: real signals in a separate process."""

import signal
import subprocess
import sys

import pytest

PREAMBLE = """
import os, signal, subprocess, sys
from deploy.demo.signals import EndSignals
interrupts = EndSignals()
interrupts.install()
def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)
"""


def _run(program: str) -> str:
    """Return what a program printed; its end must be a success, and no traceback may stand on standard error."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + program], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_interrupts_and_later_ones_do_not(name: str) -> None:
    program = f"""
try:
    press(signal.{name})
except KeyboardInterrupt:
    press(signal.{name})
    print("interrupted once")
"""
    assert _run(program) == "interrupted once\n"


def test_an_interrupt_that_a_fork_hook_swallows_comes_back_with_the_next_sleep() -> None:
    program = """
os.register_at_fork(after_in_parent=press)
process = subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: None)
print("swallowed")
try:
    interrupts.sleep(60)
except KeyboardInterrupt:
    print("came back")
process.wait()
"""
    assert _run(program) == "swallowed\ncame back\n"


def test_other_dropped_exceptions_are_told_as_usual() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PREAMBLE + "class Broken:\n    def __del__(self):\n        raise ValueError('told')\nBroken()",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ValueError: told" in done.stderr


def test_a_library_that_logs_the_interrupt_on_its_way_shows_no_traceback() -> None:
    program = """
import logging
logging.basicConfig()
interrupts.install()
try:
    try:
        press()
    except BaseException:
        logging.getLogger("pool").error("closing", exc_info=True)
        raise
except KeyboardInterrupt:
    print("interrupted")
logging.getLogger("pool").error("another fault")
"""
    assert _run(program) == "interrupted\n"


def test_an_ignored_signal_breaks_nothing_off_and_leaves_nothing_behind() -> None:
    program = """
try:
    press()
except KeyboardInterrupt:
    pass
interrupts.ignore()
press()
press(signal.SIGTERM)
interrupts.sleep(0)
print("stopped in order")
"""
    assert _run(program) == "stopped in order\n"


def test_a_child_is_interrupted_as_usual() -> None:
    """Nothing is masked or ignored in what the demo starts."""
    program = """
process = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
process.stdout.readline()
process.send_signal(signal.SIGINT)
print(process.wait())
"""
    assert _run(program) == f"{-signal.SIGINT}\n"
