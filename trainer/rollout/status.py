"""The status of a lineage's rollout as operators read it: what serves, each gate with its numbers, what comes next.

Source: docs/rollout.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from trainer.quarantine.store import Quarantine
from trainer.rollout import evidence, policy, ramps
from trainer.rollout.judgement import judge
from trainer.rollout.policy import Policy
from trainer.rollout.ramps import RampStatus
from trainer.rollout.states import Hold, LineageView, Verdict, Verdicts, failure_of, next_move
from trainer.rollout.store import RolloutStore
from trainer.versions.event_log import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Rollout of one lineage.

    Attributes:
        lineage: Its name.
        mode: `direct` or `gated`.
        live: Number of the live version; None without one.
        former: Version that a rollback makes live.
        canary: Number of the canary; None without one.
        canary_share: Share of the lineage's clients that it serves.
        canary_since: Time at which it began, epoch milliseconds.
        lock: Why no version moves to more clients; None if they do.
        rewind_to: Version that the trainer has to go back to, 0 for fresh weights.
        rewind_mode: What it does with the range in between.
        trainer: What the trainer does since the rollback; None if there was none since its newest version.
        breakers: Open breakers of the trainer, which keep it from learning and publishing.
        quarantined: Numbers of the ranges that wait for a decision.
        gates: Version to gate to verdict.
        servers_behind: Servers with a fresh report that do not have the live version.
        servers_silent: Server to the time of its last report, of servers that have not reported for a while without an
            orderly stop; each may still serve what was live then.
        next: The controller's next move, or why it holds.
        waits_for: Gates without sufficient evidence.
        ramps: Planned ramps of the experiments that it is an arm of.
        failed: Reason of a failed gate of a version on its way or watched, or of the rollback that froze the lineage.
    """

    lineage: str
    mode: str
    live: int | None
    former: int | None
    canary: int | None
    canary_share: float | None
    canary_since: int | None
    lock: str | None
    rewind_to: int | None
    rewind_mode: str | None
    trainer: str | None
    breakers: tuple[str, ...]
    quarantined: tuple[int, ...]
    gates: Mapping[int, Mapping[str, Verdict]]
    servers_behind: tuple[str, ...]
    servers_silent: Mapping[str, int]
    next: str
    waits_for: tuple[str, ...]
    ramps: tuple[RampStatus, ...]
    failed: str | None


def status(store: RolloutStore, engine: Engine, lineage: str, now_ms: int) -> Status:
    """Return the status of a lineage.

    Raises:
        ConfigError: If there is no such lineage.
        StoreError: If the database is unreachable or refused.
    """
    view = store.view(lineage)
    values = policy.of(view.policy)
    found = evidence.read(engine, view, values, now_ms)
    verdicts = judge(view, found, values)
    step = next_move(view, verdicts, values, now_ms, bucket_share=found.bucket_share)
    live, canary, former = view.only("live"), view.only("canary"), view.former
    loads = None if live is None else found.loads.get(live.number)
    ranges = Quarantine(engine).ranges(lineage)
    return Status(
        lineage=lineage,
        mode=values.mode,
        live=None if live is None else live.number,
        former=None if former is None else former.number,
        canary=None if canary is None else canary.number,
        canary_share=None if canary is None else canary.canary_share,
        canary_since=None if canary is None else canary.canary_since,
        lock=view.lock,
        rewind_to=view.rewind_to,
        rewind_mode=view.rewind_mode,
        trainer=_trainer(view, has_rewound=view.rewind_to is not None and store.has_rewound(lineage)),
        breakers=next((each.range.reasons for each in ranges if each.is_open), ()),
        quarantined=tuple(each.number for each in ranges if each.status == "quarantined"),
        gates=verdicts,
        servers_behind=() if loads is None else tuple(sorted({*loads.pending, *loads.refused})),
        servers_silent=found.silent,
        next=f"holds: {step.reason}"
        if isinstance(step, Hold)
        else f"version {step.version} to {step.to_status}: {step.why}",
        waits_for=step.waits_for if isinstance(step, Hold) else (),
        ramps=tuple(ramp for ramp in ramps.status(engine, store, now_ms) if lineage in ramp.lineages),
        failed=view.frozen
        if view.frozen is not None and store.is_frozen_by_rollback(lineage)
        else _failed(view, verdicts, values, now_ms),
    )


def _failed(view: LineageView, verdicts: Verdicts, policy: Policy, now_ms: int) -> str | None:
    """Return the reason of a failed gate of a version on its way or watched; None without one."""
    if policy.mode == "direct":
        return None
    statuses = {"verified", "canary", "live"} if view.is_watched(policy, now_ms) else {"verified", "canary"}
    for version in reversed(view.versions):
        if version.status in statuses and (why := failure_of(verdicts, version.number)):
            return f"version {version.number}: {why}"
    return None


def _trainer(view: LineageView, *, has_rewound: bool) -> str | None:
    """Return what the trainer does since a rollback."""
    if view.rewind_to is None:
        return None
    state = f"version {view.rewind_to}" if view.rewind_to else "fresh weights"
    if has_rewound:
        return f"has gone back to {state} ({view.rewind_mode}) and has not published since"
    if view.rewind_mode == "wait":
        return f"waits before it goes back to {state}: rewind or resume says how"
    return f"goes back to {state} ({view.rewind_mode}) when it starts"


def serving_at(events: Iterable[Event]) -> dict[str, list[int]]:
    """Return the live version and the canary after a sequence of events, each as a list of no or one number.

    Events of earlier releases hold a status and no values before and after.
    """
    statuses: dict[int, str] = {}
    for event in events:
        changed = (event.after or {}).get("versions", {})
        if event.after is None and event.version is not None:
            changed = {event.version: event.to_status}
        statuses |= {int(number): str(status) for number, status in changed.items()}
    return {name: [n for n, status in sorted(statuses.items()) if status == name] for name in ("live", "canary")}
