"""Waits of a trainer process: its clock, and steps that are repeated until the database takes them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from stream.backoff import Backoff
from stream.errors import FencedError, StoreError

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Dependencies that decide when a step is repeated.

    Attributes:
        monotonic_s: Monotonic clock. It spaces checkpoints and retries, and never decides what is learned.
        wait: Waits for so many seconds or until a stop is requested, and returns whether a stop was requested.
        random: Source of uniform numbers in [0, 1) for the jitter of retries.
    """

    monotonic_s: Callable[[], float]
    wait: Callable[[float], bool]
    random: Callable[[], float]


def until_stored(pauses: Pauses, step: Callable[[], _Result]) -> _Result:
    """Repeat a step as often as the database needs it, and return its result.

    Raises:
        FencedError: If this writer is stale.
        StoreError: If a stop was requested while the database did not answer.
    """
    backoff = Backoff(random=pauses.random)
    while True:
        try:
            return step()
        except FencedError:
            raise
        except StoreError as error:
            delay_s = backoff.next_s()
            _log.warning("training pauses, next attempt in %.1f s: %s", delay_s, error)
            if pauses.wait(delay_s):
                raise
