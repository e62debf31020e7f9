"""Small choices read from bytes: a whole event of a law is one value for Hypothesis.

Hypothesis spends about as much time on each value that it draws as the join spends on an event. Zeros are the simplest
choices, and Hypothesis makes bytes smaller, so examples still shrink.
"""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

_Option = TypeVar("_Option")


class Choices:
    """A reader of choices; past the end of its bytes it reads zeros.

    Args:
        data: The bytes, uniformly random for uniform choices.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def integer(self, low: int, high: int) -> int:
        """Return an integer between two bounds, both included; zeros give `low`."""
        num_options = high - low + 1
        # Four bits beyond those of the options make the choices nearly uniform.
        size = ((num_options - 1).bit_length() + 11) // 8
        return low + (self._read(size) * num_options >> 8 * size)

    def within(self, limit: int) -> int:
        """Return an integer between `-limit` and `limit`; zeros give 0."""
        return self.integer(0, limit) * self.sampled((1, -1))

    def flag(self) -> bool:
        """Return true or false; zeros give false."""
        return self.sampled((False, True))

    def exists(self) -> bool:
        """Return whether an optional thing is there: zeros leave it out, other bytes do not."""
        return self._read(1) > 0

    def sampled(self, options: Sequence[_Option]) -> _Option:
        """Return one of several options; zeros give the first one."""
        return options[self.integer(0, len(options) - 1)]

    def samples(self, options: Sequence[_Option], low: int, high: int) -> list[_Option]:
        """Return between `low` and `high` options, which may repeat; zeros give the first option `low` times."""
        return [self.sampled(options) for _ in range(self.integer(low, high))]

    def subset(self, options: Sequence[_Option]) -> list[_Option]:
        """Return at least one of several options, in their order; zeros give the first one."""
        left = [*range(len(options))]
        chosen = [left.pop(self.integer(0, len(left) - 1)) for _ in range(self.integer(1, len(left)))]
        return [options[at] for at in sorted(chosen)]

    def _read(self, size: int) -> int:
        read = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(read, "big")


# Hypothesis copies values to other places, and replaces those of another size by zeros: all have one size.
choices_of_one_event = st.binary(min_size=44, max_size=44).map(Choices)
"""A strategy for choices: 44 bytes, enough for any event with its reversals or parts."""

seeds = choices_of_one_event.map(lambda choices: choices.integer(0, 2**32 - 1))
"""A strategy for seeds of a random number generator."""

crashes = choices_of_one_event.map(lambda choices: choices.samples(range(1, 41), 1, 5))
"""A strategy for the numbers of micro-batches between one to five crashes."""
