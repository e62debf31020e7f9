"""Outcomes of an input record and the reason codes of those that did not join.

Every produced unit has exactly one outcome. A unit is a record, or an order line after its conversion is decoded; ticks
are not counted. produced = joined + duplicate + late + orphan + dead + open, and open is 0 after all windows.

Source: docs/stream.md.
"""

from collections.abc import Mapping

JOINED = "joined"
DUPLICATE = "duplicate"
LATE = "late"
ORPHAN = "orphan"
DEAD = "dead"
PRODUCED = "produced"
OUTCOMES = (JOINED, DUPLICATE, LATE, ORPHAN, DEAD)

OUTCOME_OF_REASON: Mapping[str, str] = {
    "too_late": LATE,
    "evicted": LATE,
    "no_impression": ORPHAN,
    "no_click": ORPHAN,
    "not_in_list": ORPHAN,
    "no_link": ORPHAN,
    "not_utf8": DEAD,
    "not_json": DEAD,
    "too_deep": DEAD,
    "too_large": DEAD,
    "bad_number": DEAD,
    "double_key": DEAD,
    "schema_unknown": DEAD,
    "missing_field": DEAD,
    "wrong_type": DEAD,
    "bad_value": DEAD,
    "future_ts": DEAD,
    "misrouted": DEAD,
    "hot_key": DEAD,
    "conflicting_impression": DEAD,
    "unmapped": DEAD,
    "internal": DEAD,
}
"""Reason code to outcome: the codes of the topics `unjoined` (late, orphan) and `dead_letters` (dead)."""


def open_count(counters: Mapping[str, int]) -> int:
    """Return the number of produced units without an outcome.

    >>> open_count({"produced": 5, "joined": 2, "dead": 1})
    2
    """
    return counters.get(PRODUCED, 0) - sum(counters.get(outcome, 0) for outcome in OUTCOMES)
