"""What can become of a record, and the side topics that take what did not join.

The unit of counting is a record, or an order line once its conversion is decoded; ticks are not counted:
produced = joined + duplicate + late + orphan + dead + open, and open is 0 once all windows have passed.

Source: STREAM.md 7 and 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream.schemas.dead_letter import OutgoingRecord

JOINED = "joined"
DUPLICATE = "duplicate"
LATE = "late"
ORPHAN = "orphan"
DEAD = "dead"
PRODUCED = "produced"
FATES = (JOINED, DUPLICATE, LATE, ORPHAN, DEAD)

FATE_OF_REASON: Mapping[str, str] = {
    "too_late": LATE,
    "evicted": LATE,
    "no_impression": ORPHAN,
    "no_click": ORPHAN,
    "not_in_list": ORPHAN,
    "no_link": ORPHAN,
    **dict.fromkeys(
        (
            "not_utf8",
            "not_json",
            "too_deep",
            "too_large",
            "bad_number",
            "double_key",
            "schema_unknown",
            "missing_field",
            "wrong_type",
            "bad_value",
            "future_ts",
            "misrouted",
            "hot_key",
            "conflicting_impression",
            "unmapped",
            "internal",
        ),
        DEAD,
    ),
}


@dataclass(slots=True)
class Effects:
    """What one slice changed and said; all of it belongs to the partition of the slice.

    The adapter sends `hot`, `warm` and all outputs at once, and sends `progress` only after the broker has confirmed
    every one of them; it acknowledges the slice after `progress` is confirmed, in order. `progress` is thus the commit
    record: whatever it claims is in the changelogs. A restart rolls rows that run ahead of it back by themselves.

    Attributes:
        slice_number: Names the slice; the join is told of it once `progress` is confirmed.
        hot: Changelog rows of the hot tier; None deletes.
        warm: Changelog rows of the warm tier; None deletes.
        progress: The changelog row of the partition's position.
        sessions: Session and progress records for topic `sessions`.
        reasons: Why each of the sessions among them was emitted.
        profiles: Profiles for topic `profiles`; None deletes.
        unjoined: Late and orphaned records, or order lines, for topic `unjoined`.
        dead_letters: Refused records for topic `dead_letters`.
        pause: Topics of this partition that run too far ahead; the adapter stops fetching them until a later slice of
            the partition does not name them any more.
    """

    slice_number: int = 0
    hot: dict[bytes, bytes | None] = field(default_factory=dict)
    warm: dict[bytes, bytes | None] = field(default_factory=dict)
    progress: dict[bytes, bytes | None] = field(default_factory=dict)
    sessions: list[tuple[bytes, bytes]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    profiles: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    unjoined: list[OutgoingRecord] = field(default_factory=list)
    dead_letters: list[OutgoingRecord] = field(default_factory=list)
    pause: frozenset[str] = frozenset()


def open_count(counters: Mapping[str, int]) -> int:
    """Return how many produced records have no fate yet.

    >>> open_count({"produced": 5, "joined": 2, "dead": 1})
    2
    """
    return counters.get(PRODUCED, 0) - sum(counters.get(fate, 0) for fate in FATES)
