"""Ctrl-C on a demo with a Kafka of its own, at any time and more than once: every process ends, the broker too."""

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.demo import POLL_S, DemoProcess, demo, running_in, wait_until_only

pytestmark = [pytest.mark.kafka, pytest.mark.system]
OPTIONS = ("--hours", "1", "--rate", "600")
SLOW = {"SHELFWISE_MARKETPLACE__PACE": "30"}
INTERRUPTED = 130


def _says(pattern: str) -> Callable[[DemoProcess], bool]:
    return lambda running: re.search(pattern, running.said) is not None


def _is_shopping(running: DemoProcess) -> bool:
    return running.samples("serving").total("shelfwise_serving_requests_total") > 0


MOMENTS: dict[str, Callable[[DemoProcess], bool]] = {
    "the log is formatted": _says("formatting "),
    "the broker starts": _says("starting Kafka"),
    "the topics are there": _says(r"\d+ topics with"),
    "shoppers shop": _is_shopping,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_stops_the_broker_too(moment: str, tmp_path: Path) -> None:
    with demo(tmp_path, *OPTIONS, settings=SLOW) as running:
        running.wait_for(moment, lambda: MOMENTS[moment](running))
        assert running.interrupt() == INTERRUPTED, running.words()
        assert running_in(running.home) == []
        assert "Traceback" not in running.said


def test_interrupts_while_it_stops_change_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, *OPTIONS, settings=SLOW) as running:
        running.wait_for("shoppers", lambda: _is_shopping(running))
        _insist(running)
        assert running.process.returncode == INTERRUPTED, running.words()
        assert running_in(running.home) == []
        assert "Traceback" not in running.said


def test_a_demo_after_a_killed_one_stops_the_broker_that_it_left(tmp_path: Path) -> None:
    broker = ("kafka.Kafka",)
    with demo(tmp_path, *OPTIONS, settings=SLOW) as running:
        running.wait_for("shoppers", lambda: _is_shopping(running))
        left = running.pid(*broker)
        running.kill()
        wait_until_only(running.home, broker)

        with demo(tmp_path, *OPTIONS) as second:
            second.wait_for("the broker", lambda: _says(r"\d+ topics with")(second))
            assert "stopping the broker that an earlier demo left running" in second.said
            assert second.pid(*broker) not in {None, left}
            summary = second.finish()
            assert running_in(second.home) == []
    assert summary.conservation.closed
    assert summary.sessions_in_sql == summary.sessions_in_topic == summary.searches > 200


def _insist(running: DemoProcess) -> None:
    """Press Ctrl-C again and again until it has ended."""
    for _ in range(int(180 / POLL_S)):
        running.process.send_signal(signal.SIGINT)
        try:
            running.process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        return
    raise AssertionError(f"the demo did not stop:\n{running.words()}")
