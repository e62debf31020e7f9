"""Health of an experiment for a ramp: its checks on all data so far, its fallbacks and its guardrails.

A ramp must notice harm before attribution windows close, so sessions with open windows count.

Source: docs/experiments.md, Ramp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, func, select

from abtest import queries
from abtest.analysis import evaluate
from abtest.experiment import Epoch, Experiment
from abtest.health import MAX_FALLBACKS
from abtest.results import Check, Result
from abtest.tables import session_facts

MIN_SESSIONS = 100
_PRESENCE = "sessions_per_client"


def read(
    connection: Connection, experiment: Experiment, epochs: tuple[Epoch, ...]
) -> tuple[tuple[Check, ...], int | None]:
    """Return the checks of a ramp and the watermark of their data, None before all partitions have one.

    Args:
        connection: A transaction that sees one state of the database throughout.
        experiment: The experiment.
        epochs: Its epochs.
    """
    facts = queries.read(connection, experiment, epochs, partial=True)
    report = evaluate(experiment, epochs, facts)
    # A ramp counts open windows by intent, so their number is no reason for an alert.
    checks = [check for check in report.checks if check.check_name not in {"fallback", "maturity"}]
    arms = [arm.name for arm, dealt in zip(experiment.arms, epochs[-1].dealt, strict=True) if dealt]
    checks.append(fallback_share(_fallbacks(connection, experiment.key, epochs[-1].number), arms))
    watched = {*experiment.plan.goals, _PRESENCE}
    checks.append(guardrail([each for each in report.results if each.metric in watched]))
    return tuple(replace(check, detail=check.detail[:1_024]) for check in checks), facts.data_range.watermark_ts


def _fallbacks(connection: Connection, experiment: str, epoch: int) -> dict[str, tuple[int, int]]:
    """Return the sessions of each arm in an epoch, and those among them in incoming order for want of a score."""
    facts = session_facts.c
    rows = connection.execute(
        select(facts.arm, func.count(), func.count(facts.fallback))
        .where(facts.experiment == experiment, facts.epoch == epoch)
        .group_by(facts.arm)
    )
    return {str(arm): (sessions, fallbacks) for arm, sessions, fallbacks in rows}


def fallback_share(found: Mapping[str, tuple[int, int]], arms: Sequence[str]) -> Check:
    """Return the check that no arm falls back in more than 1 % of its sessions of the present epoch.

    >>> fallback_share({"a": (100, 1), "b": (400, 5)}, ["a", "b"]).status
    'blocked'

    Args:
        found: Arm to its sessions and those with a fallback.
        arms: Arms that have clients by plan.
    """
    counts = {arm: found.get(arm, (0, 0)) for arm in arms}
    shares = {arm: fallbacks / sessions for arm, (sessions, fallbacks) in counts.items() if sessions >= MIN_SESSIONS}
    largest = max(shares.values(), default=None)
    detail = ", ".join(f"{arm} {fallbacks} of {sessions}" for arm, (sessions, fallbacks) in counts.items())
    detail += " sessions of this epoch in the incoming order by a fallback"
    status = "ok" if len(shares) == len(arms) else "undefined"
    if largest is not None and largest > MAX_FALLBACKS:
        status = "blocked"
    elif status == "undefined":
        detail += f"; each arm needs {MIN_SESSIONS} sessions"
    return Check(check_name="fallback_share", stat=largest, p=None, status=status, detail=detail)


def guardrail(results: Sequence[Result]) -> Check:
    """Return the check that no arm is below the control in a metric, by the confidence sequence.

    The sequence holds at all times together, so any number of looks is harmless. Without enough buyers there is none,
    and the check passes.
    """
    worse = [
        each for each in results if each.cs_hi is not None and each.cs_kind == "interval" and float(each.cs_hi) < 0.0
    ]
    detail = "; ".join(f"{each.metric} of {each.arm} {each.cs_hi:+.1%} or less" for each in worse)
    lowest = min((each.cs_hi for each in worse if each.cs_hi is not None), default=None)
    status = "blocked" if worse else "ok"
    return Check(
        check_name="guardrail", stat=lowest, p=None, status=status, detail=detail or "no arm is below the control"
    )
