"""Schema of the file `summary.json` that a demo leaves behind."""

from typing import Literal

import msgspec
from msgspec import Struct

from stream.schemas.outcomes import OUTCOMES

ALL_OUTCOMES = (*OUTCOMES, "open")


class Conservation(Struct, kw_only=True):
    """produced = joined + duplicate + late + orphan + dead + open, in records and order lines.

    Attributes:
        produced: Records and order lines in the input topics.
        by_counters: Count by outcome, from the join's own counters in the log.
        by_recount: Count by outcome, recounted from the topics without these counters.
        closed: Both counts add up to `produced` and agree with each other.
    """

    produced: int
    by_counters: dict[str, int]
    by_recount: dict[str, int]
    closed: bool


class FreshnessSummary(Struct, kw_only=True):
    """Seconds from a mature session in the log to the first version that has learned from it, by the machine's clock.

    Attributes:
        sessions: Sessions learned after the first version.
    """

    sessions: int
    p50_s: float
    p95_s: float


class LineageSummary(Struct, kw_only=True):
    """Versions of one lineage.

    Attributes:
        published: Number of versions that the trainer published.
        served: Number of them that serving loaded.
        freshness: Null without a second version.
    """

    lineage: str
    arm: str
    published: int
    served: int
    freshness: FreshnessSummary | None


class LiftRow(Struct, kw_only=True):
    """Row of the lift table: one experiment metric in one arm against the shuffled control; undefined is null."""

    metric: str
    arm: str
    control: float | None
    treatment: float | None
    lift: float | None
    lo: float | None
    hi: float | None
    p: float | None


class ArmTruth(Struct, kw_only=True):
    """Expected orders and money of the lists shown in one arm, from the simulator's own chances.

    Attributes:
        fallbacks: Searches that kept the incoming order because no version ranked them.
        orders_per_100: Expected orders per 100 searches.
        gmv_minor_per_100: Expected money per 100 searches.
        gain: Orders over those of the incoming order of the same lists, as a share.
        standard_error: Of `gain`, over lists.
        gmv_gain: Money over that of the incoming order of the same lists, as a share.
        gmv_standard_error: Of `gmv_gain`, over lists.
        thirds: The gain in each third of the time with searches.
    """

    arm: str
    searches: int
    fallbacks: int
    orders_per_100: float
    gmv_minor_per_100: float
    gain: float | None
    standard_error: float | None
    gmv_gain: float | None
    gmv_standard_error: float | None
    thirds: list[float | None]


class VersionTruth(Struct, kw_only=True):
    """The gain of one version over the incoming order, on the lists that it ranked."""

    lineage: str
    version: int
    lists: int
    first_ts: int
    last_ts: int
    gain: float | None
    standard_error: float | None


class Truth(Struct, kw_only=True):
    """Knowledge of the simulator; orders are shares over those of the incoming order of the same lists.

    Attributes:
        random: Orders of lists in random order.
        best: Orders of lists by true utility.
        now: Orders of each learned arm in the last third, by lineage.
    """

    arms: list[ArmTruth]
    versions: list[VersionTruth]
    random: float | None
    best: float | None
    now: dict[str, float | None]


class Drill(Struct, kw_only=True):
    """The end of a version with flipped labels.

    Attributes:
        lineage: Lineage of the drill.
        version: Version that learned flipped labels; null if the lineage published too few.
        outcome: `rejected`, `rolled_back`, or `quarantined` with versions that were trained from it; null if nothing
            happened before the end.
        why: The gate with its reason.
        trainer_back_at: Version to whose state the trainer went back; null if it did not, 0 for fresh weights.
        live_again: First version that went live afterwards; null if none did before the end.
        lists: Lists that the version ranked.
        steps: The steps as they were told.
    """

    lineage: str
    version: int | None
    outcome: Literal["rejected", "rolled_back", "quarantined"] | None
    why: str
    trainer_back_at: int | None
    live_again: int | None
    lists: int
    steps: list[str]


class DemoSummary(Struct, kw_only=True):
    """Content of `.shelfwise/demo/summary.json`; `drill` is null without one."""

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
    truth: Truth
    drill: Drill | None
    sample_ratio_p: float | None
    report_html: str
    seconds: dict[str, float]


def closes(produced: int, by_counters: dict[str, int], by_recount: dict[str, int]) -> bool:
    """Return whether both counts add up to `produced` and agree outcome by outcome.

    >>> closes(3, {"joined": 2, "late": 1}, {"joined": 2, "late": 1, "dead": 0})
    True
    >>> closes(3, {"joined": 2, "late": 1}, {"joined": 1, "late": 2})
    False
    """
    counted = [{outcome: counts.get(outcome, 0) for outcome in ALL_OUTCOMES} for counts in (by_counters, by_recount)]
    return counted[0] == counted[1] and all(sum(counts.values()) == produced for counts in counted)


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of the summary."""
    return msgspec.json.schema(DemoSummary)
