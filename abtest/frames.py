"""Analysis of an experiment from a data frame or a file, without the rest of the system.

Rows are clients, sessions or events; they are added up by client first. The horizon is fixed: the p-values hold for one
look at the end. A confidence sequence holds however often one looks.

Source: docs/experiments.md, Analysis of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import polars as pl

from abtest import cuped, inference, multiplicity
from abtest.estimates import Estimate, Quotient, comparable, of_quotient
from abtest.experiment import are_unequal
from abtest.frame_plan import FramePlan, MetricPlan, check, read_plan
from abtest.frame_sums import ClientSums, client_sums, scan
from abtest.inference import Lift
from abtest.moments import Moments
from abtest.monitoring import Monitored, monitored
from abtest.srm import SampleRatio, sample_ratio
from abtest.stratified import epoch_weights, stratified_moments, stratified_pair
from stream.errors import ConfigError

__all__ = ["FrameAnalysis", "FramePlan", "FrameResult", "MetricPlan", "analyze", "read_plan", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult:
    """Metric of one arm against the control.

    Attributes:
        value: Value in the arm, and `control_value` in the control, not adjusted.
        lift: Comparison; by CUPED where the plan names columns of the time before. It has a confidence sequence, at the
            level that one of several arms has (Bonferroni), if the plan gives the clients at which it is tightest.
        plain: Comparison without CUPED; None where `lift` is that.
        p_adj: p adjusted over all goals and arms as the plan says; None outside of that family.
        variance_ratio: Variance of the difference by CUPED over that without; None without CUPED, which money in arms
            further apart than 60 to 40 never has.
    """

    metric: str
    arm: str
    clients: int
    control_clients: int
    value: float | None
    control_value: float | None
    lift: Monitored
    plain: Lift | None = None
    p_adj: float | None = None
    variance_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAnalysis:
    """Analysis of a file.

    Attributes:
        adjustment: How the p-values of the goals are adjusted.
        clients: Clients of each arm.
        strata: Stratum to its weight, its share of the clients in strata in which each arm has two or more; the others
            are left out of the values. Empty without strata.
        left_out: Clients in several arms or strata, or in none.
        rows_without_client: Rows that name no client, left out.
        ratio: Test of the sample ratio; None without planned weights.
        results: By metric and arm.
    """

    control: str
    alpha: float
    adjustment: str
    clients: Mapping[str, int]
    strata: Mapping[str, float]
    left_out: int
    rows_without_client: int
    ratio: SampleRatio | None
    results: tuple[FrameResult, ...]


def analyze(frame: object, plan: FramePlan) -> FrameAnalysis:
    """Return the metrics of each arm against the control.

    Args:
        frame: Rows: a frame of Polars, lazy or not, or another that gives Arrow's stream of arrays, as those of pandas
            and PyArrow do.
        plan: Columns, arms and metrics.

    Raises:
        ConfigError: If a column is missing or holds no numbers, or an arm is not as planned.
    """
    check(plan)
    found = client_sums(_lazy(frame), plan)
    weights = _strata_weights(found, plan)
    moments = found.moments
    if plan.control not in moments:
        raise ConfigError(f"control = '{plan.control}': the arms of the data are {', '.join(moments) or 'none'}")
    if len(moments) < 2:
        raise ConfigError(f"control = '{plan.control}': the data have no other arm")
    clients = {arm: part.n for arm, part in moments.items()}
    shares = [plan.weights[arm] for arm in clients] if plan.weights else []
    return FrameAnalysis(
        control=plan.control,
        alpha=plan.alpha,
        adjustment=plan.adjustment,
        clients=clients,
        strata={found.strata[stratum]: weight for stratum, weight in (weights or {}).items()},
        left_out=found.left_out,
        rows_without_client=found.rows_without_client,
        ratio=sample_ratio(list(clients.values()), shares) if shares else None,
        results=_adjusted(_results(plan, found, weights), plan),
    )


def _lazy(frame: object) -> pl.LazyFrame:
    if isinstance(frame, pl.LazyFrame):
        return frame
    if isinstance(frame, pl.DataFrame):
        return frame.lazy()
    if not hasattr(frame, "__arrow_c_stream__"):
        raise ConfigError(f"the data are a {type(frame).__name__}, expected a data frame of Polars or of Arrow")
    return pl.DataFrame(frame).lazy()


def _strata_weights(found: ClientSums, plan: FramePlan) -> dict[int, float] | None:
    """Return the weight of each stratum, or None if all clients are pooled."""
    return None if plan.stratum is None else epoch_weights([parts for parts in found.by_stratum.values() if parts])


def _results(plan: FramePlan, sums: ClientSums, weights: Mapping[int, float] | None) -> list[FrameResult]:
    moments = sums.moments
    control = moments[plan.control]
    keys = [(metric, arm) for metric in plan.metrics for arm in moments if arm != plan.control]
    quotients = [Quotient.of(plan.columns, metric.numerator, metric.denominator) for metric, _ in keys]
    pairs = [
        _pair(sums, plan.control, arm, now, weights, is_money=metric.is_money)
        for (metric, arm), now in zip(keys, quotients, strict=True)
    ]
    results: list[FrameResult] = []
    lifts = inference.compare_all(pairs, plan.alpha)
    level = plan.alpha / (len(moments) - 1)
    for (metric, arm), now, (base, found), lift in zip(keys, quotients, pairs, lifts, strict=True):
        tested, variance_ratio, covariance = lift, None, None
        if metric.before is not None and not (metric.is_money and are_unequal(base.n, found.n)):
            before = Quotient.of(plan.columns, metric.before, metric.before_denominator)
            sides = [_moments(sums, name, weights) for name in (plan.control, arm)]
            adjusted = cuped.compare(sides[0], sides[1], now, before, plan.alpha)
            if adjusted is not None:
                tested, variance_ratio, covariance = adjusted.lift, adjusted.variance_ratio, adjusted.covariance
        shown = Monitored(**asdict(tested))
        if plan.tightest_clients is not None:
            shown = monitored(base, found, tested, alpha=level, tightest=plan.tightest_clients, covariance=covariance)
        results.append(
            FrameResult(
                metric=metric.name,
                arm=arm,
                clients=found.n,
                control_clients=control.n,
                value=found.value,
                control_value=base.value,
                lift=shown,
                plain=None if variance_ratio is None else lift,
                variance_ratio=variance_ratio,
            )
        )
    return results


def _pair(
    sums: ClientSums, control: str, arm: str, now: Quotient, weights: Mapping[int, float] | None, *, is_money: bool
) -> tuple[Estimate, Estimate]:
    parts = sums.by_stratum.get(control), sums.by_stratum.get(arm)
    if weights is None or not parts[0] or not parts[1]:
        found = (of_quotient(now, sums.moments[name]) for name in (control, arm))
        return comparable(*found, is_money=is_money)
    return stratified_pair(now, parts[0], parts[1], weights, is_money=is_money)


def _moments(sums: ClientSums, arm: str, weights: Mapping[int, float] | None) -> Moments:
    """Return the moments of an arm by which CUPED adjusts; of no clients where no stratum counts."""
    if weights is None:
        return sums.moments[arm]
    parts = sums.by_stratum.get(arm)
    return stratified_moments(parts, weights) if parts and weights else Moments.empty(len(sums.moments[arm].mean))


def _adjusted(results: Sequence[FrameResult], plan: FramePlan) -> tuple[FrameResult, ...]:
    goals = {metric.name for metric in plan.metrics if metric.goal}
    family = [each for each in results if each.metric in goals and each.lift.p_fixed is not None]
    adjust = multiplicity.holm if plan.adjustment == "holm" else multiplicity.benjamini_hochberg
    p_values = adjust([each.lift.p_fixed for each in family if each.lift.p_fixed is not None])
    adjusted = {(each.metric, each.arm): p for each, p in zip(family, p_values, strict=True)}
    return tuple(replace(each, p_adj=adjusted.get((each.metric, each.arm))) for each in results)
