"""Notices that a broker has lost records which were merged already, as after a power loss.

The log then ends before the stored position, or has other records below it: those would be taken for merged and
never be read. The mark of an input is offset and append time of its newest merged record; it is stored in the same
batch as the progress row, and compared with what the log holds at that offset.

Source: RELIABILITY.md 4, S7.
"""

from collections.abc import Mapping

import msgspec

from stream.broker.offsets import append_times, beginning_offsets, end_offsets
from stream.broker.settings import Broker
from stream.errors import BusError

KEY = b"marks"
"""Row of the progress table; the join's own row is the partition's number."""


class LostRecordsError(BusError):
    """The broker no longer holds records that were merged."""


Marks = dict[str, tuple[int, int]]
"""Input topic to offset and append time of its newest merged record."""

_marks = msgspec.msgpack.Decoder(Marks)


def pack(marks: Marks) -> bytes:
    """Return the row of one partition's marks.

    >>> unpack(pack({"clicks": (7, 1_700_000_000_000)}))
    {'clicks': (7, 1700000000000)}
    """
    return msgspec.msgpack.encode(marks)


def unpack(row: bytes | None) -> Marks:
    """Return the marks of a row, none when there is none yet."""
    return _marks.decode(row) if row is not None else {}


def verify(broker: Broker, marks: Mapping[int, Marks], starts: Mapping[tuple[str, int], int]) -> None:
    """Check that the log still holds what was merged.

    Args:
        broker: Whose log.
        marks: Partition to its marks.
        starts: Input partition to the offset that reading starts from.

    Raises:
        LostRecordsError: If it does not.
        BusError: If the broker is unreachable.
    """
    names = sorted({name for name, _ in starts})
    if not names:
        return
    first, end = beginning_offsets(broker, names), end_offsets(broker, names)
    merged = {(name, number): mark for number, known in marks.items() for name, mark in known.items()}
    for pair, start in starts.items():
        position = max(start, merged[pair][0] + 1) if pair in merged else start
        if position > end[pair]:
            raise LostRecordsError(_lost(pair, f"was read up to offset {position}, but its log ends at {end[pair]}"))
    kept = {pair: mark for pair, mark in merged.items() if pair in starts and mark[0] >= first[pair]}
    found = append_times(broker, {pair: offset for pair, (offset, _) in kept.items()})
    for pair, (offset, append_ts) in kept.items():
        if found[pair] != append_ts:
            raise LostRecordsError(_lost(pair, f"holds another record at offset {offset} than the one that was merged"))


def _lost(pair: tuple[str, int], what: str) -> str:
    name, number = pair
    return (
        f"{name}-{number} {what}: the broker has lost acknowledged records. Restore the topic, or start a new "
        "generation of topics and replay; going on would skip whatever was written in their place"
    )
