"""Planned ramps of experiments: what each does now by its checks and its lineages, and the steps of the controller.

Source: docs/experiments.md, Ramp.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from abtest.ramp_plan import Decision, Ramp, decide
from abtest.ramp_store import RampStore
from stream.errors import ConfigError
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore
from trainer.versions import event_log
from trainer.versions.leases import CONTROLLER, check_term


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStatus:
    """Planned ramp of one experiment as operators read it.

    Attributes:
        experiment: Key of the experiment.
        champion: Lineage or policy of the control arm.
        lineages: Lineages of its arms.
        share: Share of all clients that take part.
        steps: Shares of the plan.
        left_out: Share of clients that the plan never deals, beside the hold-out of the layer.
        next_share: Share of the next step.
        due_ts: Earliest time of that step, epoch milliseconds.
        held: Cause to detail, while the ramp is frozen.
        held_since: Time since which the controller has recorded these causes.
        next: What comes next, or why nothing does.
    """

    experiment: str
    champion: str
    lineages: tuple[str, ...]
    share: float
    steps: tuple[float, ...]
    left_out: float
    next_share: float | None
    due_ts: int
    held: dict[str, str]
    held_since: int | None
    next: str


def status(engine: Engine, store: RolloutStore, now_ms: int) -> list[RampStatus]:
    """Return the planned ramps of the running experiments.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    return [_status(ramp, decide(ramp, _reasons(_views(store, ramp)), now_ms)) for ramp in RampStore(engine).ramps()]


def advance(
    engine: Engine,
    store: RolloutStore,
    *,
    term: int,
    now_ms: int,
    metrics: RolloutMetrics,
    say: Callable[[str, str], None],
) -> int:
    """Take the steps that are due, record what freezes or releases a ramp, and return the number of steps.

    Args:
        engine: A database with the newest schema.
        store: The store of the lineages.
        term: Term of the controller's lease, which each step compares.
        now_ms: Epoch milliseconds.
        metrics: Metrics of the controller.
        say: Logs the state of an experiment.

    Raises:
        FencedError: If another controller has taken over.
        StoreError: If the database is unreachable or refused.
    """
    ramps, actor, num_steps = RampStore(engine), event_log.process("controller", term), 0

    def guard(connection: Connection) -> None:
        check_term(connection, CONTROLLER, term)

    found = ramps.ramps()
    for ramp in found:
        views = _views(store, ramp)
        decision = decide(ramp, _reasons(views), now_ms)
        say(f"experiment {ramp.experiment}", decision.reason)
        if set(decision.held) != set(ramp.held):
            ramps.hold(ramp, decision, now_ts=now_ms, actor=actor, guard=guard)
            continue
        if decision.share is None:
            continue
        live = {name: version.number for name, view in views if view and (version := view.only("live"))}
        try:
            is_taken = ramps.step(ramp, decision.share, now_ts=now_ms, actor=actor, lineages=live, guard=guard)
        except ConfigError as error:
            # Stopped in between, or a step that leaves an arm without buckets: the others go on.
            say(f"experiment {ramp.experiment}", str(error))
            continue
        if is_taken:
            num_steps += 1
            say(f"experiment {ramp.experiment}", f"{decision.share:g} of all clients take part")
    metrics.observe_ramps(ramps.ramps() if num_steps else found)
    return num_steps


def _views(store: RolloutStore, ramp: Ramp) -> list[tuple[str, LineageView | None]]:
    known = set(store.names())
    names = [arm.lineage for arm in ramp.arms if arm.lineage is not None]
    return [(name, store.view(name) if name in known else None) for name in names]


def _reasons(views: Iterable[tuple[str, LineageView | None]]) -> dict[str, str]:
    """Return each lineage that does not serve by its rules, and why. A pinned one does: its version is certified."""
    found: dict[str, str] = {}
    for name, view in views:
        if view is not None and (view.killed is not None or view.frozen is not None):
            found[name] = f"killed: {view.killed}" if view.killed is not None else f"frozen: {view.frozen}"
        elif view is None or view.only("live") is None:
            found[name] = "no live version"
    return found


def _status(ramp: Ramp, decision: Decision) -> RampStatus:
    control = next(arm for arm in ramp.arms if arm.is_control)
    return RampStatus(
        experiment=ramp.experiment,
        champion=control.lineage or str(control.policy),
        lineages=tuple(arm.lineage for arm in ramp.arms if arm.lineage is not None),
        share=ramp.share,
        steps=ramp.plan.steps,
        left_out=ramp.plan.left_out,
        next_share=ramp.next_share,
        due_ts=ramp.due_ts,
        held=dict(decision.held),
        held_since=ramp.held_since if decision.held else None,
        next=decision.reason,
    )
