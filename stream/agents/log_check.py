"""Detection of a broker that has lost merged records, as after a power failure.

The log then ends before the stored position, or holds other records below it: those would count as merged and would
never be read. The fingerprint of an input is the offset and append time of its newest merged record. It is stored in
the same batch as the progress row, and compared with the record that the log holds at that offset.

Source: docs/stream.md.
"""

from collections.abc import Mapping

import msgspec

from stream.broker.offsets import append_times, beginning_offsets, end_offsets
from stream.broker.settings import Broker
from stream.errors import BusError

KEY = b"fingerprint"
"""Key of the fingerprint's row in the progress table; the key of the join's own row is the partition's number."""


class LostRecordsError(BusError):
    """A broker that does not hold all records that were merged."""


LogFingerprint = dict[str, tuple[int, int]]
"""Offset and append time of the newest merged record of each input topic, for one partition."""

_decoder = msgspec.msgpack.Decoder(LogFingerprint)


def pack(fingerprint: LogFingerprint) -> bytes:
    """Return the row of the fingerprint of one partition.

    >>> unpack(pack({"clicks": (7, 1_700_000_000_000)}))
    {'clicks': (7, 1700000000000)}
    """
    return msgspec.msgpack.encode(fingerprint)


def unpack(row: bytes | None) -> LogFingerprint:
    """Return the fingerprint in a row; it is empty if there is no row."""
    return _decoder.decode(row) if row is not None else {}


def verify(broker: Broker, fingerprints: Mapping[int, LogFingerprint], starts: Mapping[tuple[str, int], int]) -> None:
    """Check that the log still holds all merged records.

    Args:
        broker: Broker of the log.
        fingerprints: Fingerprint of each partition.
        starts: Offset from which each input partition is read.

    Raises:
        LostRecordsError: If it does not.
        BusError: If the broker is unreachable.
    """
    names = sorted({name for name, _ in starts})
    if not names:
        return
    first, end = beginning_offsets(broker, names), end_offsets(broker, names)
    merged = {(name, number): newest for number, known in fingerprints.items() for name, newest in known.items()}
    for pair, start in starts.items():
        position = max(start, merged[pair][0] + 1) if pair in merged else start
        if position > end[pair]:
            raise LostRecordsError(_lost(pair, f"was read up to offset {position}, but its log ends at {end[pair]}"))
    kept = {pair: newest for pair, newest in merged.items() if pair in starts and newest[0] >= first[pair]}
    found = append_times(broker, {pair: offset for pair, (offset, _) in kept.items()})
    for pair, (offset, append_ts) in kept.items():
        if found[pair] != append_ts:
            raise LostRecordsError(_lost(pair, f"holds another record at offset {offset} than the one that was merged"))


def _lost(pair: tuple[str, int], fault: str) -> str:
    name, number = pair
    return (
        f"{name}-{number} {fault}: the broker has lost acknowledged records. Restore the topic, or start a new "
        "generation of topics and replay; going on would skip the records that were written in their place"
    )
