"""The seven gates: pure functions of evidence and policy that pass, fail, or wait for more evidence.

A gate waits while the evidence does not suffice, so that no data never promotes and silence never rolls back. Gates
that are looked at again and again while clients are served use a confidence sequence, so their errors hold at all
looks together.

Source: docs/rollout.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev
from typing import Final

from abtest.confidence_sequence import radius
from abtest.estimates import estimate
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from trainer.rollout.policy import Policy
from trainer.rollout.states import Outcome, Verdict

GUARDRAILS: Final = ("ctr", "cvr", "gmv")
_SLOWEST: Final = 0.01
_CALIBRATION_LEVEL: Final = 0.95
_GOLDEN: Final = "golden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its one-sided 95 % bounds on either side, by a bootstrap over clients."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prequential:
    """Comparison on the newest lists, each scored before it was learned.

    Attributes:
        num_lists: Lists behind it.
        loss: Relative rise of the log loss against the scores that the live version logged; None without one.
        lead: AUC of the clicked items by score, less that by the incoming order.
    """

    num_lists: int
    loss: Interval | None
    lead: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Sums of predicted and of observed labels; `category` is empty for all lists together."""

    category: str
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Comparison of orders with the live version's on the same lists.

    Attributes:
        num_lists: Lists behind it.
        correlation: Mean rank correlation.
        churn: Share of lists whose first item changes.
    """

    num_lists: int
    correlation: float
    churn: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceCounts:
    """Answers of one version in one slice, summed over servers.

    Attributes:
        answered: Answers.
        fallbacks: Answers in incoming order.
        bad: Bad outputs: a wrong number of scores, or scores that are not finite.
        latency: Upper bound of a latency bucket in seconds to the answers in it; infinity for the last.
    """

    answered: int = 0
    fallbacks: int = 0
    bad: int = 0
    latency: Mapping[float, int] = field(default_factory=dict)

    def __add__(self, other: "SliceCounts") -> "SliceCounts":
        """Return both together."""
        bounds = sorted({*self.latency, *other.latency})
        return SliceCounts(
            answered=self.answered + other.answered,
            fallbacks=self.fallbacks + other.fallbacks,
            bad=self.bad + other.bad,
            latency={bound: self.latency.get(bound, 0) + other.latency.get(bound, 0) for bound in bounds},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """State of a version on the servers whose report is fresh.

    Attributes:
        ok: Servers that have it in memory, verified.
        pending: Servers that have not tried.
        refused: Server to its reason; one that begins with `golden` concerns the golden set.
    """

    ok: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def integrity(loads: Loads, norm_change: float | None, history: Sequence[float], policy: Policy) -> Verdict:
    """Judge gate 1: servers have the whole artifact, and the weights moved no further than usual.

    Args:
        loads: State of the version on the servers.
        norm_change: Change of the norm of the dense weights against the parent; None if there is no parent.
        history: The same of former versions; fewer than `policy.norm_versions` say nothing.
        policy: Thresholds.
    """
    numbers: dict[str, float | int | str | None] = _loads(loads) | {
        "norm_change": norm_change,
        "norm_versions": len(history),
    }
    if norm_change is not None and len(history) >= policy.norm_versions:
        centre, spread = fmean(history), stdev(history)
        sigma = abs(norm_change - centre) / spread if spread > 0 else 0.0 if norm_change == centre else math.inf
        numbers["norm_sigma"] = sigma if math.isfinite(sigma) else None
        if not sigma <= policy.norm_sigma:
            return Verdict(
                outcome="fail", reason=f"the weights moved {sigma:.1f} sigma from their history", numbers=numbers
            )
    elif norm_change is not None and not math.isfinite(norm_change):
        return Verdict(outcome="fail", reason="the norm of the weights is not finite", numbers=numbers)
    damaged = {name: why for name, why in loads.refused.items() if not why.startswith(_GOLDEN)}
    return _loaded(loads, damaged, numbers)


def golden(loads: Loads) -> Verdict:
    """Judge gate 2: the golden sessions have the trainer's scores in the runtime of the servers."""
    other = {name: why for name, why in loads.refused.items() if why.startswith(_GOLDEN)}
    return _loaded(loads, other, _loads(loads))


def prequential(found: Prequential | None, policy: Policy) -> Verdict:
    """Judge gate 3: the predictions are no worse than the live version's, and rank no worse than the incoming order.

    Lists that the live version ranked favour it, since labels depend on the order that was shown.
    """
    if found is None:
        return Verdict(outcome="wait", reason="no comparison was published with the version")
    numbers: dict[str, float | int | str | None] = {
        "lists": found.num_lists,
        **_interval("lead", found.lead),
        **(_interval("loss", found.loss) if found.loss is not None else {}),
    }
    if found.num_lists < policy.prequential_lists:
        reason = f"{found.num_lists} of {policy.prequential_lists} lists"
        return Verdict(outcome="wait", reason=reason, numbers=numbers)
    limits = [
        ("ranks behind the incoming order", -found.lead.high, -found.lead.low, policy.max_lag),
    ]
    if found.loss is not None:
        limits.append(("log loss above the live version's", found.loss.low, found.loss.high, policy.max_loss))
    for what, low, high, limit in limits:
        if not (math.isfinite(low) and math.isfinite(high)) or low > limit:
            return Verdict(outcome="fail", reason=f"{what}, by more than {limit:g}", numbers=numbers)
    for what, _low, high, limit in limits:
        if high > limit:
            return Verdict(outcome="wait", reason=f"{what} by more than {limit:g} is not excluded", numbers=numbers)
    return Verdict(outcome="pass", numbers=numbers)


def calibration(counts: Sequence[LabelCounts], policy: Policy, *, has_head: bool = True) -> Verdict:
    """Judge gate 4: predicted and observed labels agree, overall and in each category with enough of them.

    A model without a head for probabilities passes: its scores only order a list.

    It fails where chance cannot explain the ratio: the interval of a Poisson count, by the square-root transform and
    shared among the ratios, lies outside of the allowed range.
    """
    numbers: dict[str, float | int | str | None] = {}
    if not has_head:
        return Verdict(outcome="pass", reason="the model predicts no probabilities")
    overall = next((each for each in counts if each.category == ""), None)
    if overall is None or overall.observed < policy.calibration_labels:
        observed = 0.0 if overall is None else overall.observed
        return Verdict(outcome="wait", reason=f"{observed:.0f} of {policy.calibration_labels} labels", numbers=numbers)
    judged = [each for each in counts if each.observed >= policy.calibration_labels]
    z = NormalDist().inv_cdf(1.0 - (1.0 - _CALIBRATION_LEVEL) / (2.0 * len(judged)))
    outcome: Outcome = "pass"
    reason = ""
    for each in judged:
        ratio, where = each.predicted / each.observed, each.category or "all lists"
        numbers[f"ratio:{each.category}" if each.category else "ratio"] = ratio
        root = math.sqrt(each.observed)
        low = each.predicted / (root + z / 2.0) ** 2
        high = each.predicted / max(root - z / 2.0, 1e-9) ** 2
        text = f"predicted over observed is {ratio:.3f} in {where}"
        if not math.isfinite(ratio) or low > policy.calibration_high or high < policy.calibration_low:
            return Verdict(outcome="fail", reason=text, numbers=numbers)
        if not policy.calibration_low <= ratio <= policy.calibration_high and outcome == "pass":
            outcome, reason = "wait", f"{text}, which chance may explain"
    return Verdict(outcome=outcome, reason=reason, numbers=numbers)


def shadow(found: Shadow | None, history: Sequence[Shadow], policy: Policy, *, has_live: bool) -> Verdict:
    """Judge gate 5: lists keep the order that the live version gives them, as far as former versions kept it.

    Args:
        found: Comparison with the live version.
        history: The same of former versions that went live; fewer than `policy.shadow_versions` say nothing, and then
            `policy.least_correlation` is the only limit.
        policy: Thresholds.
        has_live: Whether a version is live.
    """
    if not has_live:
        return Verdict(outcome="pass", reason="no live version to compare with")
    if found is None:
        return Verdict(outcome="wait", reason="no comparison was published with the version")
    least, most = _allowed_change(history, policy)
    numbers: dict[str, float | int | str | None] = {
        "lists": found.num_lists,
        "correlation": found.correlation,
        "least_correlation": least,
        "churn": found.churn,
        "most_churn": most,
        "former_versions": len(history),
    }
    if found.num_lists < policy.shadow_lists:
        return Verdict(outcome="wait", reason=f"{found.num_lists} of {policy.shadow_lists} lists", numbers=numbers)
    if not found.correlation >= least:
        reason = f"rank correlation {found.correlation:.3f}, at least {least:.3g} is asked"
        return Verdict(outcome="fail", reason=reason, numbers=numbers)
    if not found.churn <= most:
        reason = f"the first item changes in {found.churn:.1%} of the lists, at most {most:.0%} may"
        return Verdict(outcome="fail", reason=reason, numbers=numbers)
    return Verdict(outcome="pass", numbers=numbers)


def _allowed_change(history: Sequence[Shadow], policy: Policy) -> tuple[float, float]:
    """Return the least correlation and the largest share of lists with another first item that gate 5 allows."""
    if len(history) < policy.shadow_versions:
        return min(policy.min_correlation, policy.least_correlation), 1.0
    correlations, churns = [each.correlation for each in history], [each.churn for each in history]
    lowest = fmean(correlations) - policy.shadow_sigma * stdev(correlations)
    highest = fmean(churns) + policy.shadow_sigma * stdev(churns)
    # However far former versions went: a random order has correlation 0.
    least = min(policy.min_correlation, max(lowest, policy.least_correlation))
    return least, min(1.0, max(policy.max_churn, highest))


def system(canary: SliceCounts, control: SliceCounts | None, policy: Policy) -> Verdict:
    """Judge gate 6: no more bad outputs, fallbacks and slow answers than in the control slice.

    A slow answer is one above the control slice's p99 times `p99_ratio`, rounded up to a bound of the buckets; the
    canary's p99 is above that limit if more than 1 % of its answers are.

    Args:
        canary: Counts of the version.
        control: Counts of the live version in the control slice; None without a live version, when shares above the
            allowed rise fail and latencies are not judged.
        policy: Thresholds.
    """
    other = control if control is not None else SliceCounts()
    numbers: dict[str, float | int | str | None] = {"answered": canary.answered, "control_answered": other.answered}
    if canary.answered == 0:
        return Verdict(outcome="wait", reason="the version has no answers", numbers=numbers)
    if control is not None and control.answered == 0:
        return Verdict(outcome="wait", reason="there are no answers to compare with", numbers=numbers)
    failure = ""
    for name, own, its, allowed in (
        ("bad outputs", canary.bad, other.bad, policy.max_bad),
        ("fallbacks", canary.fallbacks, other.fallbacks, policy.max_fallbacks),
    ):
        share, base, rise = _rise(own, canary.answered, its, other.answered, policy)
        numbers |= {name.replace(" ", "_"): share, f"control_{name.replace(' ', '_')}": base}
        if rise > allowed and not failure:
            failure = f"{name}: {share:.2%} against {base:.2%}"
    limit = None if control is None else _slow_limit(control, policy.p99_ratio)
    if limit is not None:
        slow = sum(count for bound, count in canary.latency.items() if bound > limit)
        share, _base, rise = _rise(slow, canary.answered, 0, 0, policy)
        numbers |= {"slow_above_s": limit, "slow": share}
        if rise > _SLOWEST and not failure:
            failure = f"{share:.2%} of the answers take more than {limit * 1e3:g} ms"
    if failure:
        return Verdict(outcome="fail", reason=failure, numbers=numbers)
    fewest = canary.answered if control is None else min(canary.answered, control.answered)
    if fewest < policy.canary_queries:
        return Verdict(outcome="wait", reason=f"{fewest} of {policy.canary_queries} answers", numbers=numbers)
    return Verdict(outcome="pass", numbers=numbers)


def business(canary: Moments, control: Moments, policy: Policy) -> Verdict:
    """Judge gate 7: no certain drop of CTR, CVR or GMV below the control slice, at any look.

    Clients are the unit; a ratio has its variance by the delta method, and each guardrail its share of `alpha`. The
    gate catches disasters only: a drop of 10 % of a CVR of 5 % needs 30,000 clients in each slice.

    Shapes: moments over `abtest.metrics.COLUMNS`.
    """
    sessions = [round(each.n * float(each.mean[COLUMNS.index("sessions")])) for each in (canary, control)]
    numbers: dict[str, float | int | str | None] = {
        "clients": canary.n,
        "control_clients": control.n,
        "sessions": sessions[0],
        "control_sessions": sessions[1],
    }
    failure = ""
    for name in GUARDRAILS:
        metric = METRICS[name]
        own, its = (estimate(metric, each) for each in (canary, control))
        if own.value is None or its.value is None or its.value <= 0 or own.variance is None or its.variance is None:
            continue
        # The difference to what the control slice would have after the drop that is still allowed.
        kept = 1.0 - policy.max_drop
        se = math.sqrt(own.variance + kept**2 * its.variance)
        n = 2.0 / (1.0 / canary.n + 1.0 / control.n)
        certain = radius(se, n, alpha=policy.alpha / len(GUARDRAILS), tuned_at=max(policy.business_sessions, 1))
        highest = own.value - kept * its.value + certain
        numbers |= {name: own.value, f"control_{name}": its.value, f"{name}_highest": highest / its.value}
        if highest < 0 and not failure:
            failure = f"{metric.title} {own.value / its.value - 1.0:+.1%} against the control slice"
    if failure:
        return Verdict(outcome="fail", reason=failure, numbers=numbers)
    if min(sessions) < policy.business_sessions:
        reason = f"{min(sessions)} of {policy.business_sessions} sessions with facts"
        return Verdict(outcome="wait", reason=reason, numbers=numbers)
    return Verdict(outcome="pass", numbers=numbers)


def _rise(own: int, n: int, its: int, m: int, policy: Policy) -> tuple[float, float, float]:
    """Return both shares, and the rise from the second to the first that is certain at every look."""
    share, base = own / n, its / m if m else 0.0
    # One success and one failure more keep the error of rare events away from zero (Agresti and Caffo 2000).
    smooth, smooth_base = (own + 1) / (n + 2), (its + 1) / (m + 2)
    variance = smooth * (1 - smooth) / (n + 2) + (smooth_base * (1 - smooth_base) / (m + 2) if m else 0.0)
    pairs = 2.0 / (1.0 / n + 1.0 / m) if m else float(n)
    certain = radius(math.sqrt(variance), pairs, alpha=policy.alpha / 3.0, tuned_at=policy.canary_queries)
    return share, base, share - base - certain


def _slow_limit(control: SliceCounts, p99_ratio: float) -> float | None:
    """Return the bound above which an answer is slow; None if the buckets have none."""
    bounds = sorted(bound for bound in control.latency if math.isfinite(bound))
    total = sum(control.latency.values())
    if not total:
        return None
    above = total
    for bound in bounds:
        above -= control.latency[bound]
        if above <= _SLOWEST * total:
            return next((each for each in bounds if each >= bound * p99_ratio), None)
    return None


def _loaded(loads: Loads, refused: Mapping[str, str], numbers: Mapping[str, float | int | str | None]) -> Verdict:
    """Return the verdict of servers: one broken server holds a version up, only all together reject it."""
    first = next((f"{name}: {why}" for name, why in sorted(refused.items())), "")
    if refused and not loads.ok and not loads.pending and len(refused) == len(loads.refused):
        return Verdict(outcome="fail", reason=f"refused by every server, {first}", numbers=numbers)
    if loads.refused:
        named = first or next(f"{name}: {why}" for name, why in sorted(loads.refused.items()))
        return Verdict(outcome="wait", reason=f"refused by a server, {named}", numbers=numbers)
    if loads.pending or not loads.ok:
        reason = f"not loaded by {', '.join(sorted(loads.pending))}" if loads.pending else "no server reports"
        return Verdict(outcome="wait", reason=reason, numbers=numbers)
    return Verdict(outcome="pass", numbers=numbers)


def _loads(loads: Loads) -> dict[str, float | int | str | None]:
    return {"servers_ok": len(loads.ok), "servers_pending": len(loads.pending), "servers_refused": len(loads.refused)}


def _interval(name: str, interval: Interval) -> dict[str, float | int | str | None]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
