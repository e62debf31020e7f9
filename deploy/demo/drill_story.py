"""The story of a drill, told from the events of its lineage: one line for each step, and the outcome for the summary.

Source: docs/rollout.md, "Drills".
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, Literal, TypeAlias

from deploy.demo.summary import Drill, VersionTruth
from stream.schemas.times import MINUTE_MS
from trainer.rollout.states import LineageView
from trainer.versions.event_log import Event
from trainer.versions.tables import DRILL

_Outcome: TypeAlias = Literal["rejected", "rolled_back", "quarantined"]
_TAKEN_BACK: Final[Mapping[object, _Outcome]] = {
    "rejected": "rejected",
    "rolled_back": "rolled_back",
    "quarantined": "quarantined",
}


def line(event: Event, view: LineageView) -> str | None:
    """Return an event as one line for people; None for one that the story does without.

    Args:
        event: An event of the lineage.
        view: The lineage, after the event.
    """
    version, name = f"{event.lineage} v{event.version}", event.lineage
    after = event.after or {}
    match event.to_status:
        case "policy":
            return _policy(name, (event.before or {}).get("policy") or {}, after.get("policy") or {})
        case "published" if event.version is not None and is_drill(view, event.version):
            return f"{version}: labels flipped on purpose"
        case "canary":
            return f"{version} is a canary for {after.get('canary_share', 0):.0%} of its clients: {event.why}"
        case "live":
            return f"{version} is live: {event.why}"
        case "rejected" | "rolled_back":
            what = "refused by gate" if event.to_status == "rejected" else "rolled back by gate"
            return f"{version} {what} {event.why}{_way_back(event, after)}"
        case "rewound":
            to = "fresh weights" if event.version is None else f"v{event.version}"
            return f"{name}: the trainer is back at {to}{_skipped(event.evidence)}"
        case "resumed":
            return f"{name}: versions may go live again"
    return None


def is_drill(view: LineageView, number: int) -> bool:
    """Return whether a version has learned flipped labels on purpose."""
    version = view.get(number)
    return version is not None and DRILL in version.metrics


def outcome(view: LineageView, events: Sequence[Event], steps: Sequence[str], truths: Sequence[VersionTruth]) -> Drill:
    """Return what became of the version with flipped labels.

    Args:
        view: The lineage at the end.
        events: Its events, the oldest first.
        steps: The lines that were told.
        truths: The lists that each version ranked.
    """
    bad = next((each.number for each in view.versions if is_drill(view, each.number)), None)
    end = next((each for each in events if _end_of(each, bad) is not None), None)
    later = [] if end is None else [each for each in events if each.id > end.id]
    back = next((each for each in later if each.to_status == "rewound"), None)
    live = [each.version for each in later if each.to_status == "live" and (each.version or 0) > (bad or 0)]
    return Drill(
        lineage=view.name,
        version=bad,
        outcome=None if end is None else _end_of(end, bad),
        why="" if end is None else end.why,
        trainer_back_at=None if back is None else back.version or 0,
        live_again=live[0] if live else None,
        lists=sum(each.lists for each in truths if (each.lineage, each.version) == (view.name, bad)),
        steps=list(steps),
    )


def _end_of(event: Event, bad: int | None) -> _Outcome | None:
    """Return how an event takes a version back, by itself or together with another one; None if it does not."""
    statuses = (event.after or {}).get("versions")
    return _TAKEN_BACK.get(statuses.get(str(bad))) if isinstance(statuses, dict) else None


def sentence(drill: Drill) -> str:
    """Return the outcome of a drill as one sentence.

    >>> sentence(Drill(lineage="armmt", version=None, outcome=None, why="", trainer_back_at=None, live_again=None,
    ...                lists=0, steps=[]))
    'armmt published no version with flipped labels: its first versions came too late'
    """
    if drill.version is None:
        return f"{drill.lineage} published no version with flipped labels: its first versions came too late"
    version = f"{drill.lineage} v{drill.version} with flipped labels"
    lists = f"it ranked {drill.lists or 'no'} {'list' if drill.lists == 1 else 'lists'}"
    if drill.outcome is None:
        return f"{version} was neither refused nor rolled back before the end; {lists}"
    ends = {
        "rejected": "was refused by gate",
        "rolled_back": "was rolled back by gate",
        "quarantined": "became a canary and was taken back with what was trained from it, by gate",
    }
    words = [f"{version} {ends[drill.outcome]} {drill.why}", lists]
    if drill.trainer_back_at is not None:
        words.append(f"the trainer went back to v{drill.trainer_back_at}")
        again = "no later version went live before the end"
        words.append(again if drill.live_again is None else f"v{drill.live_again} went live")
    return "; ".join(words)


def section(drill: Drill | None) -> str:
    """Return the section of the report page: the sentence and the steps; nothing without a drill."""
    if drill is None:
        return ""
    steps = "".join(f"<li>{escape(step)}</li>" for step in drill.steps)
    return f"<h2>The drill</h2>\n<p>{escape(sentence(drill))}.</p>\n<ol>{steps}</ol>\n"


def _policy(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    if "drill_version" in changed:
        return f"{name}: v{after['drill_version']} will learn flipped labels; no version goes live before it is judged"
    return f"{name}: versions go live by gates" if "mode" in changed else None


def _way_back(event: Event, after: Mapping[str, object]) -> str:
    if after.get("rewind_to") is None:
        return ""
    statuses = after.get("versions")
    others = [
        f"v{number}"
        for number, status in (statuses.items() if isinstance(statuses, dict) else ())
        if status == "quarantined" and int(number) != event.version
    ]
    also = f", {', '.join(others)} quarantined" if others else ""
    return f"; the trainer has to go back to v{after['rewind_to']}{also}"


def _skipped(evidence: Mapping[str, object]) -> str:
    skipped = evidence.get("skipped")
    if not isinstance(skipped, dict) or skipped.get("from_ts") is None:
        return ""
    return f" and leaves {(skipped['until_ts'] - skipped['from_ts']) // MINUTE_MS} minutes of the log out"
