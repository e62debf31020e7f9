"""Analysis of an experiment, as a pure function: lifts between looks, and the standing verdict.

Source: docs/experiments.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from abtest import health, inference, multiplicity, sensitivity, standing
from abtest.declared import adjusted
from abtest.experiment import Epoch, Experiment
from abtest.inference import Lift
from abtest.looks import KEEP_RUNNING, Look
from abtest.metrics import METRICS, Metric
from abtest.monitoring import Monitored, monitored
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.results import AdjustedResult, ArmVerdict, Report, Result
from abtest.strata import compared
from abtest.stratified import epoch_weights
from abtest.strays import BLOCK_SHARE

# Number of clients at which the confidence sequence is tightest, for a plan without a number of clients.
TIGHTEST_CLIENTS = 10_000
_MAX_REASON = 255


def as_of(facts: Facts) -> int:
    """Return the watermark of the facts, or the time of the last one before the join has reported a watermark."""
    found = facts.data_range
    return found.watermark_ts if found.watermark_ts is not None else found.last_ts or 0


def evaluate(experiment: Experiment, epochs: tuple[Epoch, ...], facts: Facts, looks: Sequence[Look] = ()) -> Report:
    """Return the report of an experiment from its facts and its looks so far; it takes no look."""
    plan = experiment.plan
    checks = health.checks(experiment, epochs, facts)
    hindrance = standing.obstacle(experiment, facts, checks)
    verdicts = standing.arm_verdicts(experiment, facts, looks, hindrance)
    verdict, reason = standing.overall(verdicts)
    waits = standing.outlook(experiment, facts) if verdict == KEEP_RUNNING else None
    results = _adjusted(
        tuple(result for metric in METRICS.values() for result in _metric_results(metric, experiment, facts)), plan
    )
    complete = plan.primary is not None and facts.is_complete(METRICS[plan.primary])
    return Report(
        experiment=experiment.key,
        layer=experiment.layer,
        status=experiment.status,
        spec_hash=experiment.spec_hash,
        plan=plan,
        arms=experiment.arms,
        epochs=epochs,
        as_of=as_of(facts),
        matured_ts=facts.data_range.matured_ts,
        partial=facts.partial,
        complete=complete,
        currency=facts.strays.currency,
        counts=facts.counts,
        checks=checks,
        results=tuple(_described(result, plan, verdicts) for result in results),
        verdict=verdict,
        verdict_reason=reason,
        verdicts=verdicts,
        until_ts=None if waits is None else waits.until_ts,
        more_clients=None if waits is None else waits.more_clients,
        looks=tuple(looks),
        stratified=facts.stratified,
        adjusted=_adjusted_results(experiment, facts),
        caveats=(*_caveats(experiment, facts, results), *_strata_caveats(facts)),
    )


def _metric_results(metric: Metric, experiment: Experiment, facts: Facts) -> list[Result]:
    plan, control = experiment.plan, experiment.control.name
    undefined = metric.is_money and facts.strays.foreign_share > BLOCK_SHARE
    level = plan.alpha / (len(experiment.arms) - 1)
    results: list[Result] = []
    for arm in experiment.arms:
        base, found = compared(facts, metric, control, arm.name)
        lift = Lift() if arm.is_control else inference.compare(base, found, plan.alpha)
        if undefined:
            lift = Lift(reason="mixed_currency")
        elif metric.waits_for_refunds and not found.n and facts.matured[arm.name].moments.n:
            lift = Lift(reason="refund_window_open")
        lift = replace(lift, reason=lift.reason or (found.reason if arm.is_control else None))
        shown = Monitored(**asdict(lift))
        if _may_be_monitored(experiment, facts, metric, arm.name):
            shown = monitored(base, found, lift, alpha=level, tightest=plan.clients or TIGHTEST_CLIENTS)
        se = lift.lift_se
        planned = plan.mde
        results.append(
            Result(
                metric=metric.name,
                arm=arm.name,
                method="mean" if metric.denominator is None else "ratio",
                n=found.n,
                n_control=base.n,
                mean=None if undefined else found.value,
                mean_control=None if undefined else base.value,
                **asdict(shown),
                mde=sensitivity.smallest_effect(se, plan.alpha) if se else None,
                power=sensitivity.power(planned, se, plan.alpha) if se and planned else None,
                exaggeration_ratio=sensitivity.exaggeration_ratio(planned, se, plan.alpha) if se and planned else None,
            )
        )
    return results


def _adjusted_results(experiment: Experiment, facts: Facts) -> tuple[AdjustedResult, ...]:
    plan, control = experiment.plan, experiment.control.name
    level = plan.alpha / (len(experiment.arms) - 1)
    no_money = facts.strays.foreign_share > BLOCK_SHARE
    results: list[AdjustedResult] = []
    for metric in METRICS.values():
        for arm in experiment.arms:
            found = None if arm.is_control else adjusted(facts, plan, metric, control, arm.name, alpha=plan.alpha)
            if found is None or (no_money and metric.is_money):
                continue
            shown = Monitored(**asdict(found.lift))
            if _may_be_monitored(experiment, facts, metric, arm.name):
                base, treated = compared(facts, metric, control, arm.name)
                shown = monitored(
                    base,
                    treated,
                    found.lift,
                    alpha=level,
                    tightest=plan.clients or TIGHTEST_CLIENTS,
                    covariance=found.covariance,
                )
            results.append(
                AdjustedResult(
                    metric=metric.name,
                    arm=arm.name,
                    mean=found.arm,
                    mean_control=found.control,
                    theta=found.theta,
                    variance_ratio=found.variance_ratio,
                    **asdict(shown),
                )
            )
    return tuple(results)


def _may_be_monitored(experiment: Experiment, facts: Facts, metric: Metric, arm: str) -> bool:
    # The confidence sequence is asymptotic: with few buyers it does not hold.
    fewest = min(facts.sample(metric, name).buyers_of(metric) for name in (arm, experiment.control.name))
    return fewest >= experiment.plan.min_buyers


def _adjusted(results: tuple[Result, ...], plan: Plan) -> tuple[Result, ...]:
    family = [entry for entry in results if entry.metric in plan.goals and entry.p_fixed is not None]
    p_values = multiplicity.holm([entry.p_fixed for entry in family if entry.p_fixed is not None])
    adjusted = {(entry.metric, entry.arm): p for entry, p in zip(family, p_values, strict=True)}
    return tuple(replace(entry, p_adj=adjusted.get((entry.metric, entry.arm))) for entry in results)


def _described(entry: Result, plan: Plan, verdicts: Sequence[ArmVerdict]) -> Result:
    described = replace(entry, sentence=_sentence(entry))
    if entry.metric != plan.primary:
        return described
    for found in verdicts:
        if found.arm == entry.arm:
            return replace(described, verdict=found.verdict, reason=entry.reason or found.reason[:_MAX_REASON])
    return described


def _sentence(entry: Result) -> str:
    title = f"{METRICS[entry.metric].title}, {entry.arm}"
    if entry.p_fixed is None or entry.lift is None:
        return f"{title}: undefined ({entry.reason})" if entry.reason else ""
    if entry.cs_kind is None:
        return f"{title}: too few buyers for a confidence sequence"
    if entry.cs_kind != "interval" or entry.cs_lo is None or entry.cs_hi is None:
        return f"{title}: the control is too close to zero for bounds on the lift"
    bounds = f"{entry.cs_lo:+.2%} to {entry.cs_hi:+.2%}"
    if entry.cs_lo <= 0.0 <= entry.cs_hi:
        return f"{title}: no evidence of a change so far; lifts outside {bounds} are excluded"
    return f"{title}: {'higher' if entry.lift > 0.0 else 'lower'} so far; lifts outside {bounds} are excluded"


def _strata_caveats(facts: Facts) -> tuple[str, ...]:
    if not facts.stratified:
        return ()
    arms = [sample.by_epoch for sample in facts.matured.values()]
    kept = epoch_weights(arms)
    left_out = sum(part.n for arm in arms for epoch, part in arm.items() if epoch not in kept)
    note = (
        "The shares of the arms differ between epochs, so that pooled numbers would be biased: values are those of the "
        "epochs, weighted by their shares of the clients. Counts are not weighted."
    )
    if left_out:
        note += f" {left_out:,} clients are left out, of epochs in which an arm has fewer than two."
    return (note,)


def _caveats(experiment: Experiment, facts: Facts, results: tuple[Result, ...]) -> tuple[str, ...]:
    plan = experiment.plan
    notes: list[str] = []
    if facts.partial:
        notes.append("Partial: labels of sessions with open attribution windows are still arriving.")
    if plan.primary is None:
        notes.append("No primary metric was declared: all p-values are exploratory.")
    elif len(plan.goals) > 1:
        notes.append(
            f"Only the primary metric, {METRICS[plan.primary].title}, decides. The p-values of the "
            f"{len(plan.goals)} goals are also shown, adjusted by Holm, after the end."
        )
    notes.append(
        "Only looks (`shelfwise abtest decide`) give a verdict. Between them, intervals and p-values are a confidence "
        "sequence, which holds however often one reads it (asymptotic; arXiv 2103.06476)."
    )
    if plan.cuped_days is not None:
        notes.append(
            f"Looks test the primary metric adjusted by the {plan.cuped_days:g} days before each client's first "
            "exposure (CUPED; Deng, Xu, Kohavi, Walker 2013). The plain estimate stands beside it."
        )
    num_treated = len(experiment.arms) - 1
    if num_treated > 1:
        notes.append(
            f"{num_treated} arms are compared with the control, each at {plan.alpha:g} / {num_treated} (Bonferroni)."
        )
    for entry in results:
        if entry.metric != plan.primary or entry.mde is None:
            continue
        notes.append(f"{METRICS[entry.metric].title}, {entry.arm}: 80 % power needs a lift of {entry.mde:.2%}.")
        if plan.mde is not None and entry.power is not None and entry.power < sensitivity.WANTED_POWER:
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
    strays = facts.strays
    if strays.foreign_currencies:
        named = sorted({strays.currency or "", *strays.foreign_currencies} - {""})
        notes.append(f"Amounts in several currencies ({', '.join(named)}) are not added up.")
    return tuple(notes)
