"""The change of a lineage that a command or a move of the controller makes, as a pure function of its view.

The store writes a change and its event in one transaction. A command works while no controller runs.

Source: docs/rollout.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from stream.errors import ConfigError
from stream.schemas.names import check_reason
from trainer.quarantine.ranges import QuarantinedRange, RangeStatus
from trainer.rollout import policy as policies
from trainer.rollout.policy import Policy
from trainer.rollout.states import MOVES, OF_LEARNING, Actor, LineageView, Move, Status, VersionView, may_move

RewindMode = Literal["wait", "replay", "skip"]
REWIND_MODES: Final[tuple[RewindMode, ...]] = ("wait", "replay", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The writes of one transaction.

    Attributes:
        version: Version that the event names; None if it concerns the lineage as a whole.
        from_status: Status of that version before.
        to_status: Status of that version after, or the word for what happened to the lineage.
        why: Why, for people.
        statuses: Version to its new status.
        lineage: Column of the lineage to its new value.
        share: Share of the lineage's clients of a version that becomes a canary.
        decision: Range of the quarantine to its new status; None for none.
        fences: Whether the lease term is raised, so that the running trainer is refused.
    """

    version: int | None
    from_status: Status | None
    to_status: str
    why: str
    statuses: Mapping[int, Status] = field(default_factory=dict)
    lineage: Mapping[str, object] = field(default_factory=dict)
    share: float | None = None
    decision: tuple[QuarantinedRange, RangeStatus] | None = None
    fences: bool = False


def of_move(view: LineageView, move: Move, policy: Policy) -> Change:
    """Return the change that a move of the controller makes."""
    version = _existing(view, move.version)
    if move.to_status == "rolled_back":
        good = view.former if version.status == "live" else view.only("live")
        return _rolled_back(view, version, good, policy.on_rollback, move.why)
    if move.to_status == "rejected" and move.gate in OF_LEARNING and policy.on_rejection != "keep":
        trusted = _trusted(view, version)
        if trusted is not None:
            return _taken_back(view, version, trusted, mode=policy.on_rejection, why=move.why, to_status="rejected")
    if move.to_status == "live":
        return _to_live(view, version, move.why)
    return Change(
        version=move.version,
        from_status=move.from_status,
        to_status=move.to_status,
        why=move.why,
        statuses={move.version: move.to_status},
        share=move.share,
    )


def promote(view: LineageView, number: int | None, why: str) -> Change:
    """Return the change that puts a version live: the canary, or else the newest verified one, if none is named.

    Raises:
        ConfigError: If the lineage is locked, or the version is unknown or may not go live.
    """
    if view.lock is not None:
        raise ConfigError(f"lineage {view.name} is {view.lock}; shelfwise rollout unpin or resume releases it")
    if number is None:
        chosen = view.only("canary") or view.only("verified")
        if chosen is None:
            raise ConfigError(f"lineage {view.name} has neither a canary nor a verified version")
        number = chosen.number
    return _to_live(view, _existing(view, number), why)


def abort(view: LineageView, mode: RewindMode | Literal["keep"], why: str) -> Change:
    """Return the change that ends the canary.

    Args:
        view: The lineage.
        mode: `keep` supersedes the version and lets the trainer go on; any other mode rolls the version back.
        why: Why, for people.

    Raises:
        ConfigError: If there is no canary.
    """
    canary = view.only("canary")
    if canary is None:
        raise ConfigError(f"lineage {view.name} has no canary")
    if mode != "keep":
        return _rolled_back(view, canary, view.only("live"), mode, why)
    return Change(
        version=canary.number,
        from_status="canary",
        to_status="superseded",
        why=why,
        statuses={canary.number: "superseded"},
    )


def rollback(view: LineageView, to: int | None, mode: RewindMode, why: str) -> Change:
    """Return the change that takes the live version back to an earlier one, by default the one that was live before.

    Without an earlier version the lineage is left without a live one, so its clients get the incoming order.

    Raises:
        ConfigError: If there is no live version, `to` is unknown or was never live, or it is missing while a rollback
            keeps the lineage frozen.
    """
    if to is None and view.frozen is not None and view.rewind_to is not None:
        raise ConfigError(
            f"lineage {view.name} is frozen: {view.frozen}; --to N goes back further, "
            "shelfwise rollout resume releases it"
        )
    live = view.only("live")
    if live is None:
        raise ConfigError(f"lineage {view.name} has no live version")
    if to is None:
        return _rolled_back(view, live, view.former, mode, why)
    good = _existing(view, to)
    if good.status != "superseded" or good.live_since is None:
        raise ConfigError(f"to = {to}: version {to} of {view.name} is {good.status}, expected one that was live before")
    return _rolled_back(view, live, good, mode, why)


def pin(view: LineageView, number: int | None, why: str) -> Change:
    """Return the change that keeps a version live, by default the live one, over all that its trainer publishes.

    Raises:
        ConfigError: If there is no live version to pin, or the version is unknown or may not go live.
    """
    live = view.only("live")
    if number is None:
        if live is None:
            raise ConfigError(f"lineage {view.name} has no live version to pin")
        number = live.number
    version = _existing(view, number)
    statuses = {} if version.status == "live" else dict(_to_live(view, version, why).statuses)
    return Change(
        version=number,
        from_status=version.status,
        to_status="pinned",
        why=why,
        statuses=_without_canary(view) | statuses,
        lineage={"pinned": number},
    )


def unpin(view: LineageView, why: str) -> Change:
    """Return the change that removes the pin.

    Raises:
        ConfigError: If there is none.
    """
    if view.pinned is None:
        raise ConfigError(f"lineage {view.name} is not pinned")
    return _on_lineage("unpinned", why, {"pinned": None})


def freeze(view: LineageView, reason: str) -> Change:
    """Return the change that ends the canary and stops all moves until `resume`."""
    return _on_lineage("frozen", reason, {"frozen": _text("reason", reason)}, _without_canary(view))


def kill(view: LineageView, reason: str) -> Change:
    """Return the change that gives the lineage's clients the incoming order until `resume`."""
    return _on_lineage("killed", reason, {"killed": _text("reason", reason)}, _without_canary(view))


def resume(view: LineageView, why: str) -> Change:
    """Return the change that releases a frozen or killed lineage; a trainer that waits learns the range again.

    Raises:
        ConfigError: If it is neither.
    """
    if view.frozen is None and view.killed is None:
        raise ConfigError(f"lineage {view.name} is neither frozen nor killed")
    decided = {"rewind_mode": "replay"} if view.rewind_mode == "wait" else {}
    return _on_lineage("resumed", why, {"frozen": None, "killed": None, **decided})


def rewind(view: LineageView, mode: RewindMode, why: str) -> Change:
    """Return the change that tells the trainer what to do with the range since the version that it goes back to.

    A trainer that waits takes notice. One that has gone back already is refused, so that it goes back once more.

    Raises:
        ConfigError: If the trainer need not go back, or has published since.
    """
    if view.rewind_to is None:
        raise ConfigError(f"lineage {view.name} need not go back: no rollback since its newest version")
    change = _on_lineage("rewind", why, {"rewind_mode": mode})
    return replace(change, fences=view.rewind_mode != "wait")


def set_policy(view: LineageView, given: Mapping[str, object], why: str) -> Change:
    """Return the change that sets values of the policy.

    Raises:
        ConfigError: If a key is unknown or a value is refused.
    """
    return _on_lineage("policy", why, {"policy": policies.changed(view.policy, given)})


def decide_range(chosen: QuarantinedRange, to: RangeStatus, why: str) -> Change:
    """Return the change that sets the status of a range of the quarantine."""
    return replace(_on_lineage(to, why, {}), decision=(chosen, to))


def check_moves(view: LineageView, change: Change, actor: Actor) -> None:
    """Refuse a change with a move that the state machine does not have, or that this actor may not make.

    Raises:
        ConfigError: If there is such a move; the message names it.
    """
    for number, to_status in change.statuses.items():
        from_status = _existing(view, number).status
        if not may_move(from_status, to_status, actor):
            raise ConfigError(
                f"lineage {view.name}: version {number} is {from_status}; a {actor} cannot make it {to_status}"
            )


def _to_live(view: LineageView, version: VersionView, why: str) -> Change:
    if version.status == "live":
        raise ConfigError(f"lineage {view.name}: version {version.number} is live already")
    statuses: dict[int, Status] = _without_canary(view, but=version.number)
    live = view.only("live")
    if live is not None:
        statuses[live.number] = "superseded"
    statuses[version.number] = "live"
    return Change(version=version.number, from_status=version.status, to_status="live", why=why, statuses=statuses)


def _rolled_back(view: LineageView, bad: VersionView, good: VersionView | None, mode: RewindMode, why: str) -> Change:
    """Roll `bad` back to `good`, quarantine what was trained after `good`, and freeze the lineage."""
    change = _taken_back(view, bad, good, mode=mode, why=why, to_status="rolled_back")
    frozen = f"released by hand: version {bad.number} was rolled back"
    return replace(change, lineage={**change.lineage, "frozen": frozen})


def _taken_back(
    view: LineageView, bad: VersionView, good: VersionView | None, *, mode: RewindMode, why: str, to_status: Status
) -> Change:
    """Send the trainer back from `bad` to `good`, which serves then, and quarantine what was trained after `good`."""
    suspects = _descendants(view, bad.artifact)
    suspects |= _descendants(view, good.artifact) if good is not None else {v.number for v in view.versions}
    kept = {bad.number} | (_with_ancestors(view, good) if good is not None else set())
    statuses: dict[int, Status] = {
        version.number: "quarantined"
        for version in view.versions
        if version.number in suspects - kept and ("quarantined" in _reachable(version.status))
    }
    canary = view.only("canary")
    if canary is not None and canary != good:
        statuses[canary.number] = "quarantined"
    statuses[bad.number] = to_status
    if good is not None and good.status == "superseded":
        statuses[good.number] = "live"
    lineage: dict[str, object] = {"rewind_to": good.number if good is not None else 0, "rewind_mode": mode}
    if view.pinned is not None and view.pinned in statuses and statuses[view.pinned] != "live":
        lineage["pinned"] = None
    return Change(
        version=bad.number,
        from_status=bad.status,
        to_status=to_status,
        why=why,
        statuses=statuses,
        lineage=lineage,
        fences=True,
    )


def _trusted(view: LineageView, bad: VersionView) -> VersionView | None:
    """Return the canary if `bad` is the first refused version that was trained from it, else the live version.

    A canary has passed gates 1 to 5 by lists from before its last window, so it may itself have learned what made the
    next version fail. When a second one fails, the canary is the fault.
    """
    canary = view.only("canary")
    if canary is None:
        return view.only("live")
    refused = [version for version in view.versions if version.status == "rejected"]
    trained_from_it = [each for each in (*refused, bad) if canary.number in _with_ancestors(view, each)]
    return canary if trained_from_it == [bad] else view.only("live")


def _reachable(status: Status) -> set[Status]:
    return {to_status for from_status, to_status in MOVES if from_status == status}


def _descendants(view: LineageView, artifact: str) -> set[int]:
    """Return the versions that were trained from an artifact, directly or not."""
    found: set[int] = set()
    reached = {artifact}
    # Numbers rise from parent to child, so one pass finds all.
    for version in view.versions:
        if version.parent in reached:
            found.add(version.number)
            reached.add(version.artifact)
    return found


def _with_ancestors(view: LineageView, version: VersionView) -> set[int]:
    by_artifact = {each.artifact: each for each in view.versions}
    found: set[int] = set()
    step: VersionView | None = version
    while step is not None:
        found.add(step.number)
        step = by_artifact.get(step.parent) if step.parent is not None else None
    return found


def _without_canary(view: LineageView, but: int | None = None) -> dict[int, Status]:
    canary = view.only("canary")
    return {} if canary is None or canary.number == but else {canary.number: "superseded"}


def _on_lineage(
    word: str, why: str, lineage: Mapping[str, object], statuses: Mapping[int, Status] | None = None
) -> Change:
    return Change(
        version=None, from_status=None, to_status=word, why=why, statuses=dict(statuses or {}), lineage=dict(lineage)
    )


def _existing(view: LineageView, number: int) -> VersionView:
    version = view.get(number)
    if version is None:
        numbers = [each.number for each in view.versions]
        known = f"its versions are {numbers[0]} to {numbers[-1]}" if numbers else "it has no versions"
        raise ConfigError(f"version = {number}: lineage {view.name} has no such version; {known}")
    return version


def _text(what: str, text: str) -> str:
    check_reason(what, text)
    return text.strip()[:255]
