"""Rates and holds of a partition, from counters at fixed points of `now`: the same log gives the same holds.

Source: STREAM.md 11.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream.join.fates import DEAD, PRODUCED
from stream.join.rows import Snapshot

SPAN_MS = 300_000
STEP_MS = 60_000
MIN_EVENTS = 200
MAX_DEAD_SHARE = 0.005
MIN_JOIN_RATE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Rates over the last five minutes and the names of active holds.

    Attributes:
        coverage: Share of clicks on known queries that came before their session closed.
        ctr: Share of closed sessions with a label.
        join_rate: Share of clicks that found their list.
        hold: Names of active holds.
    """

    coverage: float
    ctr: float
    join_rate: float
    hold: list[str]


def measure(
    counters: Mapping[str, int], past: Sequence[Snapshot], *, now_ts: int, watermark_ts: int, max_behind_ms: int
) -> Health:
    """Return the health of a partition.

    Args:
        counters: Counters now.
        past: Snapshots of the last minutes, oldest first.
        now_ts: Clock of the partition.
        watermark_ts: Its watermark, 0 if unknown.
        max_behind_ms: How far the watermark may fall behind the clock before training is held.
    """
    before = past[0].counters if past else {}

    def moved(name: str) -> int:
        return counters.get(name, 0) - before.get(name, 0)

    clicks, late, orphan = moved("clicks_joined"), moved("clicks_late"), moved("clicks_orphan")
    sessions, produced = moved("sessions"), moved(PRODUCED)
    join_rate = _share(clicks, clicks + late + orphan, 1.0)
    hold: list[str] = []
    if produced >= MIN_EVENTS and moved(DEAD) > MAX_DEAD_SHARE * produced:
        hold.append("dead_share")
    if clicks + late + orphan >= MIN_EVENTS and join_rate < MIN_JOIN_RATE:
        hold.append("join_rate")
    if watermark_ts and now_ts - watermark_ts > max_behind_ms:
        hold.append("watermark_behind")
    return Health(
        coverage=_share(clicks, clicks + late, 1.0),
        ctr=_share(moved("sessions_labelled"), sessions, 0.0),
        join_rate=join_rate,
        hold=hold,
    )


def remember(past: list[Snapshot], counters: Mapping[str, int], now_ts: int) -> list[Snapshot]:
    """Return the snapshots with the present one, at most one a minute and none older than five."""
    if past and now_ts - past[-1].now_ts < STEP_MS:
        return past
    kept = [snapshot for snapshot in past if now_ts - snapshot.now_ts <= SPAN_MS]
    return [*kept, Snapshot(now_ts, dict(counters))]


def _share(part: int, whole: int, otherwise: float) -> float:
    return part / whole if whole else otherwise
