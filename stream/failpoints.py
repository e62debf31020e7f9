"""Failpoints: named steps of a write at which crash tests interrupt a process."""

from collections.abc import Callable

Failpoint = Callable[[str], None]
"""A hook that is called with the name of each step; tests raise an error or end the process in it."""


def no_failpoint(_name: str) -> None:
    """Return at once: the hook of production."""
