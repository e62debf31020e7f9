"""The status and the events of a rollout as lines and tables for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploy.commands.output import console, print_table
from deploy.commands.times import iso_time

if TYPE_CHECKING:
    from trainer.rollout.ramps import RampStatus
    from trainer.rollout.states import Verdict
    from trainer.rollout.status import Status
    from trainer.versions.event_log import Event


def print_statuses(found: "Sequence[Status]") -> None:
    """Print the status of each lineage, and the gates of those that are gated."""
    if not found:
        console.print("no lineage yet: the first start of a trainer creates its lineage", soft_wrap=True)
    for each in found:
        canary = "none" if each.canary is None else f"{each.canary} with {each.canary_share or 0:.2%} of the clients"
        lines = [
            f"lineage {each.lineage} ({each.mode}): live {each.live or 'none'}, former {each.former or 'none'}, "
            f"canary {canary}",
            f"next: {each.next}",
        ]
        if each.lock is not None:
            lines.append(f"locked: {each.lock}")
        if each.trainer is not None:
            lines.append(f"trainer: {each.trainer}")
        if each.breakers:
            lines.append(f"open breakers, nothing is learned or published: {', '.join(each.breakers)}")
        if each.quarantined:
            numbers = ", ".join(map(str, each.quarantined))
            lines.append(f"ranges in quarantine: {numbers}; see shelfwise trainer quarantine list {each.lineage}")
        if each.servers_behind:
            lines.append(f"servers without the live version: {', '.join(each.servers_behind)}")
        if each.servers_silent:
            names = ", ".join(f"{name} since {iso_time(since)}" for name, since in sorted(each.servers_silent.items()))
            lines.append(f"servers that do not report, and may serve what was live then: {names}")
        lines += [ramp_line(ramp) for ramp in each.ramps]
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
        rows = [
            (f"{number} {gate}", verdict.outcome, verdict.reason, _numbers(verdict))
            for number, verdicts in sorted(each.gates.items())
            for gate, verdict in verdicts.items()
        ]
        if rows and each.mode == "gated":
            print_table("gates", ("gate", "verdict", "reason", "numbers"), rows)


def ramp_line(ramp: "RampStatus") -> str:
    """Return a planned ramp as one line: its share, the next step and its time, what freezes it, what it leaves out."""
    following = "no step" if ramp.next_share is None else f"{ramp.next_share:g} from {iso_time(ramp.due_ts)}"
    return (
        f"ramp of experiment {ramp.experiment}: {ramp.share:g} of all clients, next {following}; {ramp.next}; "
        f"champion {ramp.champion}, left out {ramp.left_out:g}"
    )


def _numbers(verdict: "Verdict") -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in verdict.numbers.items()
    )


def sentence(event: "Event") -> str:
    """Return what an event changed."""
    after = event.after or {}
    changed = [f"version {number} is {status}" for number, status in after.get("versions", {}).items()]
    changed += [f"range {number} is {status}" for number, status in after.get("ranges", {}).items()]
    others = {key: value for key, value in after.items() if key not in {"versions", "ranges"}}
    changed += [f"{key}: {value if value is not None else 'none'}" for key, value in others.items()]
    return f"lineage {event.lineage}: {event.to_status}; {'; '.join(changed)}"
