"""What the join needs of a record; those of kafka-python, of aiokafka and of `stream.bus` all fit."""

from collections.abc import Sequence
from typing import Protocol


class InputRecord(Protocol):
    """One raw record of an input topic, or of a side topic."""

    @property
    def topic(self) -> str:
        """Topic name."""
        ...

    @property
    def partition(self) -> int:
        """Partition number."""
        ...

    @property
    def offset(self) -> int:
        """Offset in the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Broker time, `append_ts`."""
        ...

    @property
    def key(self) -> bytes | None:
        """Raw key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Raw value; None is a tombstone."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Name and raw value of each header; letters are told by them."""
        ...
