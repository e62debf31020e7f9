"""Analysis of an experiment, as a pure function: health checks, lifts, then the verdict or the reason of a refusal.

Source: docs/experiments.md.
"""

from dataclasses import asdict, replace

from abtest import inference
from abtest.inference import Estimate, Lift
from abtest.metrics import COLUMNS, METRICS, Metric
from abtest.moments import Moments
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.results import Check, Report, Result
from abtest.srm import sample_ratio
from abtest.store import Epoch, Experiment

MULTI_ARM_ALERT = 0.001
WANTED_POWER = 0.8


def evaluate(experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts) -> Report:
    """Return the report of an experiment from its facts."""
    checks = _checks(epochs, facts)
    as_of = (
        facts.data_range.watermark_ts if facts.data_range.watermark_ts is not None else facts.data_range.last_ts or 0
    )
    currency = experiment.plan.currency or (facts.currencies[0] if len(facts.currencies) == 1 else None)
    mixed = set(facts.currencies) - {currency} != set() or any(count.foreign_lines for count in facts.counts)
    results = tuple(
        result
        for metric in METRICS.values()
        for result in _metric_results(metric, experiment, facts, undefined=metric.is_money and mixed)
    )
    results = _adjusted(results, experiment.plan)
    looks = {*facts.looks, *(() if facts.partial else (as_of,))}
    refusal = _refusal(experiment, epochs, facts, checks, num_looks=len(looks))
    results = tuple(_decided(result, experiment, results, refusal) for result in results)
    verdict, reason = _overall(results, experiment, refusal)
    return Report(
        experiment=experiment.key,
        layer=experiment.layer,
        status=experiment.status,
        spec_hash=experiment.spec_hash,
        plan=experiment.plan,
        arms=experiment.arms,
        epochs=epochs,
        as_of=as_of,
        matured_ts=facts.data_range.matured_ts,
        partial=facts.partial,
        currency=currency,
        counts=facts.counts,
        checks=checks,
        results=results,
        verdict=verdict,
        verdict_reason=reason,
        caveats=_caveats(experiment, facts, results, num_looks=len(looks)),
    )


def _checks(epochs: tuple[Epoch, ...], facts: Facts) -> tuple[Check, ...]:
    exposed = [count.exposed for count in facts.counts]
    ratio = sample_ratio(exposed, epochs[-1].weights)
    shown = ", ".join(
        f"{count.arm} {count.exposed} (expected {expected:.1f})"
        for count, expected in zip(facts.counts, ratio.expected, strict=True)
    )
    multi, total = sum(count.multi_arm for count in facts.counts), sum(exposed)
    share = multi / total if total else 0.0
    return (
        Check(
            check_name="sample_ratio",
            stat=ratio.stat,
            p=ratio.p,
            status=ratio.status,
            detail=f"exposed clients: {shown}" + (f"; {ratio.reason}" if ratio.reason else ""),
        ),
        Check(
            check_name="multi_arm",
            stat=share,
            p=None,
            status="alert" if share > MULTI_ARM_ALERT else "ok",
            detail=f"{multi} of {total} clients were seen in more than one arm and are left out",
        ),
        Check(
            check_name="unknown_arm",
            stat=float(facts.unknown_arm),
            p=None,
            status="blocked" if facts.unknown_arm else "ok",
            detail=f"{facts.unknown_arm} clients were exposed to arms that the plan does not have",
        ),
        Check(
            check_name="maturity",
            stat=float(facts.open_sessions),
            p=None,
            status="alert" if facts.partial else "ok",
            detail="sessions with open attribution windows are included"
            if facts.partial
            else f"{facts.open_sessions} sessions with open attribution windows are left out",
        ),
        Check(
            check_name="fallback",
            stat=_fallback_share(facts),
            p=None,
            status="ok",
            detail=", ".join(f"{count.arm} {count.fallbacks} of {count.sessions}" for count in facts.counts)
            + " sessions in the incoming order",
        ),
    )


def _fallback_share(facts: Facts) -> float | None:
    sessions = sum(count.sessions for count in facts.counts)
    return sum(count.fallbacks for count in facts.counts) / sessions if sessions else None


def _metric_results(metric: Metric, experiment: Experiment, facts: Facts, *, undefined: bool) -> list[Result]:
    control = experiment.control.name
    base = _estimate(metric, facts.moments[control])
    results: list[Result] = []
    for arm in experiment.arms:
        estimate = _estimate(metric, facts.moments[arm.name])
        lift = Lift() if arm.is_control else inference.compare(base, estimate, experiment.plan.alpha)
        if undefined:
            lift = Lift(reason="mixed_currency")
        se = lift.lift_se
        planned = experiment.plan.mde
        results.append(
            Result(
                metric=metric.name,
                arm=arm.name,
                method="mean" if metric.denominator is None else "ratio",
                n=estimate.n,
                n_control=base.n,
                mean=None if undefined else estimate.value,
                mean_control=None if undefined else base.value,
                **asdict(replace(lift, reason=lift.reason or (estimate.reason if arm.is_control else None))),
                mde=inference.smallest_effect(se, experiment.plan.alpha, WANTED_POWER) if se else None,
                power=inference.power(planned, se, experiment.plan.alpha) if se and planned else None,
                exaggeration_ratio=inference.exaggeration_ratio(planned, se, experiment.plan.alpha)
                if se and planned
                else None,
            )
        )
    return results


def _estimate(metric: Metric, moments: Moments) -> Estimate:
    numerator = COLUMNS.index(metric.numerator)
    if metric.denominator is None:
        return inference.mean(moments, numerator)
    return inference.ratio(moments, numerator, COLUMNS.index(metric.denominator))


def _adjusted(results: tuple[Result, ...], plan: Plan) -> tuple[Result, ...]:
    family = [entry for entry in results if entry.metric in plan.goals and entry.p_fixed is not None]
    p_values = inference.holm([entry.p_fixed for entry in family if entry.p_fixed is not None])
    adjusted = {(entry.metric, entry.arm): p for entry, p in zip(family, p_values, strict=True)}
    return tuple(replace(entry, p_adj=adjusted.get((entry.metric, entry.arm))) for entry in results)


def _refusal(
    experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts, checks: tuple[Check, ...], *, num_looks: int
) -> str | None:
    blocked = [check.check_name for check in checks if check.status == "blocked"]
    if blocked:
        return f"{' and '.join(blocked)} failed: the arms cannot be compared"
    if len({(epoch.weights, epoch.coverage) for epoch in epochs}) > 1:
        return "the allocation changed between epochs: pooled numbers are biased"
    if experiment.plan.primary is None:
        return "no primary metric was declared"
    if facts.partial:
        return "attribution windows are still open"
    if num_looks > experiment.plan.looks:
        return f"look {num_looks} of {experiment.plan.looks} declared: p-values of unplanned looks are too small"
    return None


def _decided(entry: Result, experiment: Experiment, results: tuple[Result, ...], refusal: str | None) -> Result:
    described = replace(entry, sentence=_sentence(entry))
    if entry.metric != experiment.plan.primary or entry.arm == experiment.control.name:
        return described
    if refusal is not None:
        return replace(described, verdict="refused", reason=refusal)
    tested = [other for other in results if other.metric == entry.metric and other.p_fixed is not None]
    if entry not in tested:
        return replace(described, verdict="refused", reason=entry.reason)
    # The primary is tested alone, over all arms; reports show the p adjusted over the goals beside it.
    p_values = inference.holm([other.p_fixed for other in tested if other.p_fixed is not None])
    p = p_values[tested.index(entry)]
    if p >= experiment.plan.alpha:
        return replace(described, verdict="inconclusive")
    return replace(described, verdict="win" if (entry.diff or 0.0) > 0.0 else "loss")


def _overall(results: tuple[Result, ...], experiment: Experiment, refusal: str | None) -> tuple[str, str]:
    if refusal is not None:
        return "refused", refusal
    decided = [entry for entry in results if entry.verdict is not None]
    verdicts = {entry.verdict for entry in decided}
    title = METRICS[experiment.plan.primary or ""].title
    by_arm = "; ".join(f"{entry.arm}: {entry.verdict}" for entry in decided)
    for verdict in ("win", "loss", "inconclusive"):
        if verdict in verdicts:
            return verdict, f"{title} (primary): {by_arm}"
    return "refused", f"{title} (primary) is undefined: {', '.join(sorted({e.reason or '?' for e in decided}))}"


def _sentence(entry: Result) -> str:
    title = METRICS[entry.metric].title
    if entry.p_fixed is None or entry.lift is None:
        return f"{title}: undefined ({entry.reason})" if entry.reason else ""
    if entry.set_kind != "interval" or entry.lo is None or entry.hi is None:
        return f"{title}: the control is too close to zero for bounds on the lift"
    bounds = f"{entry.lo:+.2%} to {entry.hi:+.2%}"
    if entry.lo <= 0.0 <= entry.hi:
        return f"{title}: no evidence of a change; lifts outside {bounds} are excluded"
    return f"{title}: {'higher' if entry.lift > 0.0 else 'lower'}; lifts outside {bounds} are excluded"


def _caveats(experiment: Experiment, facts: Facts, results: tuple[Result, ...], *, num_looks: int) -> tuple[str, ...]:
    plan = experiment.plan
    notes: list[str] = []
    if facts.partial:
        notes.append("Partial: labels of sessions with open attribution windows are still arriving.")
    if plan.primary is None:
        notes.append("No primary metric was declared: all p-values are exploratory.")
    elif len(plan.goals) > 1:
        notes.append(
            f"Only the primary metric, {METRICS[plan.primary].title}, decides. The p-values of the "
            f"{len(plan.goals)} goals are also shown adjusted by Holm."
        )
    notes.append(
        f"Fixed-horizon p-values, look {num_looks} of {plan.looks} declared. They hold for the declared looks only."
    )
    for entry in results:
        if entry.metric != plan.primary or entry.mde is None:
            continue
        notes.append(f"{METRICS[entry.metric].title}, {entry.arm}: 80 % power needs a lift of {entry.mde:.2%}.")
        if plan.mde is not None and entry.power is not None and entry.power < WANTED_POWER:
            notes.append(
                f"{METRICS[entry.metric].title}, {entry.arm}: power {entry.power:.0%} against the planned lift of "
                f"{plan.mde:.2%}; a significant result would overstate it {entry.exaggeration_ratio:.1f} times "
                "on average."
            )
    if len({arm.lineage for arm in experiment.arms if arm.lineage}) > 1:
        notes.append(
            "Lineages that train on the sessions of all arms learn from each other, which biases the lift "
            "(arXiv 2309.07107, 2310.17496)."
        )
    if len(facts.currencies) > 1 or any(count.foreign_lines for count in facts.counts):
        named = sorted({*facts.currencies, *facts.foreign_currencies})
        notes.append(f"Amounts in several currencies ({', '.join(named)}) are not added up.")
    return tuple(notes)
