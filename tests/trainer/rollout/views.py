"""Lineages as the rollout sees them: built by hand, drawn by Hypothesis, and moved on without a database."""

from dataclasses import replace
from typing import Any, get_args

from hypothesis import strategies as st

from trainer.rollout.changes import Change
from trainer.rollout.states import GATES, LineageView, Outcome, Status, Verdict, Verdicts, VersionView

STATUSES: tuple[Status, ...] = get_args(Status)
NOW_MS = 1_000_000_000
GATED: dict[str, object] = {"mode": "gated"}


def artifact(number: int) -> str:
    """Return the address of a version."""
    return f"{number:064x}"


def version(number: int, status: Status, *, parent: int | None = None, **values: Any) -> VersionView:
    """Return a version whose parent is the number before, unless another is named; 0 names none."""
    parent = number - 1 if parent is None else parent
    defaults: dict[str, Any] = {"live_since": number if status in {"live", "superseded"} else None}
    if status == "canary":
        defaults |= {"canary_share": 0.01, "canary_since": NOW_MS}
    return VersionView(
        number=number,
        status=status,
        artifact=artifact(number),
        parent=artifact(parent) if parent else None,
        published_ts=number,
        **(defaults | values),
    )


def lineage(*statuses: Status, **values: Any) -> LineageView:
    """Return a gated lineage with versions 1, 2, ... of these statuses."""
    versions = tuple(version(number, status) for number, status in enumerate(statuses, 1))
    return LineageView(**{"name": "prm", "policy": GATED, "versions": versions} | values)


def all_gates(outcome: Outcome = "pass", **others: Outcome) -> dict[str, Verdict]:
    """Return a verdict for every gate."""
    return {gate: Verdict(outcome=others.get(gate, outcome), reason=f"{gate} said so") for gate in GATES}


def applied(view: LineageView, change: Change, now_ms: int) -> LineageView:
    """Return the lineage after a change, as the store writes it."""
    versions = []
    for each in view.versions:
        to_status = change.statuses.get(each.number)
        if to_status is None:
            versions.append(each)
            continue
        is_canary = to_status == "canary"
        versions.append(
            replace(
                each,
                status=to_status,
                row_version=each.row_version + 1,
                live_since=now_ms if to_status == "live" else each.live_since,
                canary_share=change.share if is_canary else None,
                canary_since=now_ms if is_canary else None,
            )
        )
    fields: Any = dict(change.lineage)
    return replace(view, versions=tuple(versions), row_version=view.row_version + 1, **fields)


@st.composite
def views(draw: st.DrawFn) -> LineageView:
    """Draw a lineage in any state that the indexes of the database allow, locked or not."""
    statuses = draw(st.lists(st.sampled_from(STATUSES), max_size=8))
    seen: set[Status] = set()
    versions = []
    for number, status in enumerate(statuses, 1):
        chosen: Status = "superseded" if status in {"live", "canary"} and status in seen else status
        seen.add(status)
        was_live = chosen == "live" or (chosen == "superseded" and draw(st.booleans()))
        since = NOW_MS - draw(st.sampled_from([0, 1_000, 299_000, 300_000, 600_000, 600_001, 10**8]))
        versions.append(
            version(
                number,
                chosen,
                parent=draw(st.integers(0, number - 1)),
                live_since=since if was_live else None,
                canary_since=since if chosen == "canary" else None,
            )
        )
    lock: Any = draw(st.sampled_from([{}, {}, {}, {"pinned": 1}, {"frozen": "why"}, {"killed": "why"}]))
    mode = draw(st.sampled_from(["gated", "gated", "gated", "direct"]))
    return LineageView(name="prm", policy={"mode": mode}, versions=tuple(versions), **lock)


_OUTCOMES: tuple[Outcome, ...] = ("pass", "pass", "pass", "pass", "fail", "wait")


@st.composite
def verdicts(draw: st.DrawFn, view: LineageView) -> Verdicts:
    """Draw verdicts of some gates on the versions of a lineage."""
    found: dict[int, dict[str, Verdict]] = {}
    for each in view.versions:
        gates = draw(st.one_of(st.just(list(GATES)), st.lists(st.sampled_from(GATES), unique=True)))
        found[each.number] = {gate: Verdict(outcome=draw(st.sampled_from(_OUTCOMES)), reason="drawn") for gate in gates}
    return found
