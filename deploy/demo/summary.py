"""What a demo leaves behind in `summary.json`."""

from typing import Literal

import msgspec
from msgspec import Struct

FATES = ("joined", "duplicate", "late", "orphan", "dead", "open")


class Conservation(Struct, kw_only=True):
    """produced = joined + duplicate + late + orphan + dead + open, in records and order lines.

    Attributes:
        produced: What the input topics hold.
        by_counters: Fate to count, from the joiner's own counters in the log.
        by_recount: Fate to count, recounted from the topics without them.
        closed: Both add up to `produced` and agree with each other.
    """

    produced: int
    by_counters: dict[str, int]
    by_recount: dict[str, int]
    closed: bool


class LineageSummary(Struct, kw_only=True):
    """Versions of one lineage: published, and seen by shoppers."""

    lineage: str
    arm: str
    published: int
    served: int


class LiftRow(Struct, kw_only=True):
    """One metric of the lift table; undefined numbers are null."""

    metric: str
    control: float | None
    treatment: float | None
    lift: float | None
    lo: float | None
    hi: float | None
    p: float | None


class DemoSummary(Struct, kw_only=True):
    """Schema of `.shelfwise/demo/summary.json`."""

    schema_version: Literal[1] = 1
    shelfwise: str
    broker: str
    seed: int
    searches: int
    simulated_hours: float
    conservation: Conservation
    sessions_in_topic: int
    sessions_in_sql: int
    versions: list[LineageSummary]
    experiment: str
    lifts: list[LiftRow]
    sample_ratio_p: float | None
    report_html: str
    seconds: dict[str, float]


def closes(produced: int, by_counters: dict[str, int], by_recount: dict[str, int]) -> bool:
    """Tell whether both counts add up to what was produced and agree fate by fate.

    >>> closes(3, {"joined": 2, "late": 1}, {"joined": 2, "late": 1, "dead": 0})
    True
    >>> closes(3, {"joined": 2, "late": 1}, {"joined": 1, "late": 2})
    False
    """
    counted = [{fate: counts.get(fate, 0) for fate in FATES} for counts in (by_counters, by_recount)]
    return counted[0] == counted[1] and all(sum(counts.values()) == produced for counts in counted)


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of the summary."""
    return msgspec.json.schema(DemoSummary)
