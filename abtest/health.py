"""Health checks of an experiment, as pure functions.

Source: docs/experiments.md.
"""

from abtest.estimates import estimate
from abtest.experiment import Epoch, Experiment
from abtest.inference import compare
from abtest.metrics import METRICS
from abtest.queries import Facts
from abtest.results import Check
from abtest.sample_ratio_checks import ratio_checks
from abtest.strata import compared
from abtest.strays import BLOCK_SHARE

MULTI_ARM_ALERT = 0.001
MAX_FALLBACKS = 0.01
MAX_LATENCY_LIFT = 0.1
# The checks are read often, without a correction for it.
DIFFERENCE_P = 0.001


def checks(experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts) -> tuple[Check, ...]:
    """Return the health checks of an experiment."""
    exposed = [count.exposed for count in facts.counts]
    multi, total = sum(count.multi_arm for count in facts.counts), sum(exposed)
    share = multi / total if total else 0.0
    return (
        *ratio_checks(experiment, epochs, facts),
        Check(
            check_name="multi_arm",
            stat=share,
            p=None,
            status="alert" if share > MULTI_ARM_ALERT else "ok",
            detail=f"{multi} of {total} clients were seen in more than one arm and are left out",
        ),
        *_stray_checks(experiment, facts),
        Check(
            check_name="maturity",
            stat=float(facts.open_sessions),
            p=None,
            status="alert" if facts.partial else "ok",
            detail="sessions with open attribution windows are included"
            if facts.partial
            else f"{facts.open_sessions} sessions with open attribution windows are left out",
        ),
        _fallback_check(experiment, facts),
        _latency_check(experiment, facts),
    )


def _stray_checks(experiment: Experiment, facts: Facts) -> tuple[Check, ...]:
    strays = facts.strays
    primary = experiment.plan.primary
    foreign = _stray_status(strays.foreign_sessions, strays.foreign_share)
    if foreign == "blocked" and not (primary and METRICS[primary].is_money):
        foreign = "alert"
    others = f" ({', '.join(strays.foreign_currencies)})" if strays.foreign_currencies else ""
    return (
        Check(
            check_name="unknown_arm",
            stat=strays.unknown_arm_share,
            p=None,
            status=_stray_status(strays.unknown_arm, strays.unknown_arm_share),
            detail=f"{strays.unknown_arm} of {strays.clients} clients were exposed to arms that the plan does not have",
        ),
        Check(
            check_name="epoch",
            stat=strays.no_epoch_share,
            p=None,
            status=_stray_status(strays.no_epoch, strays.no_epoch_share),
            detail=f"{strays.no_epoch} of {strays.sessions} sessions belong to no epoch, {strays.after_end} came after "
            "the end; they are left out",
        ),
        Check(
            check_name="currency",
            stat=strays.foreign_share,
            p=None,
            status=foreign,
            detail=f"{strays.foreign_sessions} sessions have another currency than {strays.currency or 'any'}{others}; "
            f"{strays.foreign_money} of {strays.money_sessions} sessions with money, whose foreign amounts count as 0",
        ),
    )


def _stray_status(number: int, share: float) -> str:
    return "blocked" if share > BLOCK_SHARE else "alert" if number else "ok"


def _fallback_check(experiment: Experiment, facts: Facts) -> Check:
    """Return the check of untreated sessions: an arm with many, or with more than another, is not what it says."""
    shares = {count.arm: count.fallbacks / count.sessions for count in facts.counts if count.sessions}
    largest = max(shares.values(), default=None)
    p, _ = _largest_difference(experiment, facts, "fallback_share")
    differs = p is not None and p < DIFFERENCE_P
    detail = ", ".join(f"{count.arm} {count.fallbacks} of {count.sessions}" for count in facts.counts)
    detail += " sessions in the incoming order by a fallback"
    return Check(
        check_name="fallback",
        stat=largest,
        p=p,
        status="alert" if differs or (largest or 0.0) > MAX_FALLBACKS else "ok",
        detail=f"{detail}; the arms differ" if differs else detail,
    )


def _latency_check(experiment: Experiment, facts: Facts) -> Check:
    """Return the check that the arms take about the same time: what a client waits for is a part of the treatment."""
    p, lift = _largest_difference(experiment, facts, "latency")
    means = {arm.name: estimate(METRICS["latency"], facts.matured[arm.name].moments).value for arm in experiment.arms}
    known = ", ".join(f"{arm} {value / 1_000:.2f} ms" for arm, value in means.items() if value is not None)
    differs = p is not None and p < DIFFERENCE_P and abs(lift or 0.0) > MAX_LATENCY_LIFT
    return Check(
        check_name="latency",
        stat=lift,
        p=p,
        status="alert" if differs else "ok",
        detail=f"mean time of ranking: {known or 'unknown'}",
    )


def _largest_difference(experiment: Experiment, facts: Facts, name: str) -> tuple[float | None, float | None]:
    """Return p, adjusted by Bonferroni, and lift of the arm that differs most clearly from the control."""
    treated = [arm for arm in experiment.arms if not arm.is_control]
    control = experiment.control.name
    found = [compare(*compared(facts, METRICS[name], control, arm.name)) for arm in treated]
    tested = [(min(1.0, lift.p_fixed * len(treated)), lift.lift) for lift in found if lift.p_fixed is not None]
    return min(tested, key=lambda each: each[0], default=(None, None))
