"""A stop signal sets the event of the command, and is the earlier handler's again afterwards."""

import signal
from collections.abc import Iterator

import click
import pytest

from deploy.stop_event import stop_event

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def earlier() -> Iterator[list[int]]:
    """Numbers of the signals that the earlier handlers have received."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in NUMBERS}
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_sets_the_event_while_the_command_runs(earlier: list[int], number: int) -> None:
    with click.Context(click.Command("run")) as command:
        stopping = stop_event(command)
        assert not stopping.is_set()
        signal.raise_signal(number)
        assert stopping.is_set()
    assert earlier == []
    signal.raise_signal(number)
    assert earlier == [number]
