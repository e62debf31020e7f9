"""Dead letters of the events that adapters reject: one per event, with a payload that holds this event only.

A payload has no offset. Its coordinates are topic `ingest:FORMAT`, partition 0 and, in the place of the offset, 53 bits
of a hash of its bytes: the same payload sent twice is the same dead letter, wherever it stood in its file or batch.

Source: docs/adapters.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stream.adapters.results import Options, Rejected
from stream.schemas import dead_letter, identity
from stream.schemas.dead_letter import OutgoingRecord

TOPIC_PREFIX = "ingest:"
_MAX_DETAILS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payload:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def kept(rejected: Sequence[Rejected], options: Options) -> list[Rejected]:
    """Return the rejects that become dead letters.

    Events of unmapped kinds, such as page views, are most of a stream and hold personal data. They are left out unless
    `options.keep_unmapped` is set; callers count them by `Rejected.kind`.
    """
    return [one for one in rejected if options.keep_unmapped or one.reason != "unmapped"]


def dead_letter_of(name: str, rejected: Sequence[Rejected], *, now_ms: int, key: bytes | None = None) -> OutgoingRecord:
    """Return the dead letter of one payload.

    Args:
        name: The format.
        rejected: Its rejects, at least one; the first gives the reason, all give the detail.
        now_ms: When it was seen; there is no time of appending.
        key: The client, where known.
    """
    first = rejected[0]
    payload = _Payload(
        topic=f"{TOPIC_PREFIX}{name}",
        partition=0,
        offset=offset_of(first.raw),
        timestamp=now_ms,
        key=key,
        value=first.raw,
    )
    details = [f"{one.reason}: {one.detail}" for one in rejected[1:_MAX_DETAILS]]
    if len(rejected) > _MAX_DETAILS:
        details.append(f"{len(rejected) - _MAX_DETAILS} more")
    return dead_letter.rejected(payload, first.reason, "; ".join([first.raw_detail or first.detail, *details]))


def offset_of(raw: bytes) -> int:
    """Return what stands in the place of a payload's offset.

    >>> offset_of(b"{}") == offset_of(b"{}") != offset_of(b"{ }")
    True
    """
    return int.from_bytes(identity.hashed(raw)[:7], "big") >> 3
