"""Rates and training holds of a partition, from its counters at each progress record.

| hold | active while |
|---|---|
| `clicks_silent` | impressions arrive, and no click arrived for 120 s although ten were expected |
| `coverage` | the share of clicks that came in time is outside of its `stream.join.control_limits` |
| `ctr` | the share of sessions with a label is outside of its control limits |
| `join_rate` | less than 95 % of clicks find their list |
| `dead_share` | more than 0.5 % of records are dead |
| `watermark_behind` | the watermark is further behind `now` than allowed |
| `conservation` | the counters and the state disagree about the number of open events, by a new difference |

A hold is a circuit breaker: active from the first such record on, until five minutes of `now` pass without one. Equal
micro-batches give equal holds. A difference in conservation cannot heal by itself: the hold is active when the
difference appears or grows, and `shelfwise stream recount` reports it in full.

Source: docs/stream.md, Training holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from stream.join.control_limits import ControlLimits
from stream.schemas import topics
from stream.schemas.outcomes import DEAD, PRODUCED, open_count
from stream.schemas.times import HOUR_MS

SPAN_MS = 300_000
STEP_MS = 60_000
RELEASE_MS = 300_000
SILENCE_MS = 120_000
MIN_EVENTS = 200
MAX_DEAD_SHARE = 0.005
MIN_JOIN_RATE = 0.95
MIN_EXPECTED_CLICKS = 10
# Used below MIN_EVENTS clicks: one client that clicks on every item would make such a rate look usual.
FIRST_CLICK_RATE = 0.01


class Counts(Struct, frozen=True, array_like=True):
    """The counters behind the rates, or their increase."""

    produced: int = 0
    dead: int = 0
    clicks_joined: int = 0
    clicks_late: int = 0
    clicks_orphan: int = 0
    sessions: int = 0
    labelled: int = 0
    impressions: int = 0

    def since(self, before: "Counts") -> "Counts":
        """Return the increase since earlier counts."""
        return Counts(*(getattr(self, name) - getattr(before, name) for name in self.__struct_fields__))


class Snapshot(Struct, frozen=True, array_like=True):
    """The counts at `now_ts`."""

    now_ts: int
    counts: Counts


class _Stored(Struct, array_like=True):
    """The state from which a restarted monitor continues.

    Attributes:
        past: Snapshots of the last five minutes, oldest first, at most one a minute.
        bad: Name of each hold to the time of its last cause.
        hour: Hour since the epoch that is being learned, 0 before the first.
        hour_began: Counts at the start of the hour.
        clicks: Number of clicks at the newest click.
        impressions: Number of impressions at the newest click.
        quiet_ts: Time of the newest click.
        gap: Difference in conservation at the last progress record.
        coverage: Learned control limits of the coverage.
        ctr: Learned control limits of the click-through rate.
    """

    past: list[Snapshot] = []
    bad: dict[str, int] = {}
    hour: int = 0
    hour_began: Counts = Counts()
    clicks: int = 0
    impressions: int = 0
    quiet_ts: int = 0
    gap: int = 0
    coverage: bytes = b""
    ctr: bytes = b""


_decoder = msgspec.msgpack.Decoder(_Stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Rates over the last five minutes and the names of active holds.

    Attributes:
        coverage: Share of clicks on known queries that came before their session closed.
        ctr: Share of closed sessions with a label.
        join_rate: Share of clicks that found their list.
        hold: Names of the active training holds.
    """

    coverage: float
    ctr: float
    join_rate: float
    hold: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """The status of a partition at a progress record.

    Attributes:
        counters: Its counters.
        now_ts: Its clock.
        watermark_ts: Its watermark, 0 if unknown.
        num_open: Records and order lines in its state that have no outcome.
        clicks_read: Whether every known click is read.
    """

    counters: Mapping[str, int]
    now_ts: int
    watermark_ts: int
    num_open: int
    clicks_read: bool


class Monitor:
    """Health and training holds of one partition.

    Attributes:
        stored: State for another monitor to continue from.
    """

    def __init__(self, *, max_behind_ms: int, stored: bytes = b"") -> None:
        """Continue from `stored` if given; the watermark may fall behind the clock by `max_behind_ms`."""
        self._max_behind_ms = max_behind_ms
        self._state = _decoder.decode(stored) if stored else _Stored()
        self._coverage = ControlLimits(self._state.coverage, least=0.05)
        self._ctr = ControlLimits(self._state.ctr, share=0.3)
        self.stored = stored

    def observe(self, status: PartitionStatus) -> Health:
        """Return the health of the partition at a progress record."""
        state, now_ts, counters = self._state, status.now_ts, status.counters
        counts = _counts(counters)
        moved = counts.since(state.past[0].counts if state.past else Counts())
        self._learn(now_ts // HOUR_MS, counts)
        state.bad |= dict.fromkeys(self._unhealthy(status, moved), now_ts)
        state.bad = {name: bad_ts for name, bad_ts in state.bad.items() if now_ts - bad_ts < RELEASE_MS}
        _remember(state.past, Snapshot(now_ts, counts))
        state.coverage, state.ctr = self._coverage.learned, self._ctr.learned
        self.stored = msgspec.msgpack.encode(state)
        known = moved.clicks_joined + moved.clicks_late
        return Health(
            coverage=_share(moved.clicks_joined, known, 1.0),
            ctr=_share(moved.labelled, moved.sessions, 0.0),
            join_rate=_share(moved.clicks_joined, known + moved.clicks_orphan, 1.0),
            hold=sorted(state.bad),
        )

    def _unhealthy(self, status: PartitionStatus, moved: Counts) -> Iterator[str]:
        """Yield the names of the holds that a status causes."""
        hour = status.now_ts // HOUR_MS
        known = moved.clicks_joined + moved.clicks_late
        clicks = known + moved.clicks_orphan
        if self._is_silent(status) and moved.impressions:
            yield "clicks_silent"
        if self._gap_moved(status):
            yield "conservation"
        if not self._coverage.contain(hour, moved.clicks_joined, known):
            yield "coverage"
        if not self._ctr.contain(hour, moved.labelled, moved.sessions):
            yield "ctr"
        if moved.produced >= MIN_EVENTS and moved.dead > MAX_DEAD_SHARE * moved.produced:
            yield "dead_share"
        if clicks >= MIN_EVENTS and moved.clicks_joined < MIN_JOIN_RATE * clicks:
            yield "join_rate"
        if status.watermark_ts and status.now_ts - status.watermark_ts > self._max_behind_ms:
            yield "watermark_behind"

    def _is_silent(self, status: PartitionStatus) -> bool:
        state = self._state
        clicks, impressions = status.counters.get(topics.CLICKS, 0), status.counters.get(topics.IMPRESSIONS, 0)
        if clicks != state.clicks or not status.clicks_read or not state.quiet_ts:
            state.clicks, state.impressions, state.quiet_ts = clicks, impressions, status.now_ts
            return False
        rate = clicks / state.impressions if clicks >= MIN_EVENTS and state.impressions else FIRST_CLICK_RATE
        expected = (impressions - state.impressions) * rate
        return status.now_ts - state.quiet_ts > SILENCE_MS and expected >= MIN_EXPECTED_CLICKS

    def _gap_moved(self, status: PartitionStatus) -> bool:
        before, self._state.gap = self._state.gap, open_count(status.counters) - status.num_open
        return self._state.gap != before

    def _learn(self, hour: int, counts: Counts) -> None:
        """Learn the hour that has ended, unless the clock leapt over its end."""
        state = self._state
        if hour == state.hour:
            return
        if hour == state.hour + 1:
            moved = counts.since(state.hour_began)
            self._coverage.learn(state.hour, moved.clicks_joined, moved.clicks_joined + moved.clicks_late)
            self._ctr.learn(state.hour, moved.labelled, moved.sessions)
        state.hour, state.hour_began = hour, counts


def _counts(counters: Mapping[str, int]) -> Counts:
    return Counts(
        produced=counters.get(PRODUCED, 0),
        dead=counters.get(DEAD, 0),
        clicks_joined=counters.get("clicks_joined", 0),
        clicks_late=counters.get("clicks_late", 0),
        clicks_orphan=counters.get("clicks_orphan", 0),
        sessions=counters.get("sessions", 0),
        labelled=counters.get("sessions_labelled", 0),
        impressions=counters.get(topics.IMPRESSIONS, 0),
    )


def _remember(past: list[Snapshot], present: Snapshot) -> None:
    """Add a snapshot, at most one a minute, and forget those older than five minutes."""
    if past and present.now_ts - past[-1].now_ts < STEP_MS:
        return
    past[:] = [snapshot for snapshot in past if present.now_ts - snapshot.now_ts <= SPAN_MS]
    past.append(present)


def _share(part: int, whole: int, otherwise: float) -> float:
    return part / whole if whole else otherwise
