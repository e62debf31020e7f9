"""Analysis of an experiment from a data frame or a file, without the rest of the system.

Rows are clients, sessions or events; they are added up by client first. The horizon is fixed: the p-values hold for one
look at the end.

Source: docs/experiments.md, Analysis of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta, Struct

from abtest import cuped, inference
from abtest.estimates import Quotient, comparable, of_quotient
from abtest.inference import Lift
from abtest.moments import Moments
from abtest.srm import SampleRatio, sample_ratio
from stream.errors import ConfigError

Name = Annotated[str, Meta(min_length=1)]
_ROW = "row of the file"


class MetricPlan(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Metric of a file.

    Attributes:
        name: Name in the results.
        numerator: Column whose sum is the numerator.
        denominator: Column of the denominator; absent divides by the number of clients.
        before: Column of the numerator before the experiment, for CUPED.
        before_denominator: Column of the denominator before the experiment.
        is_money: Whether amounts are skewed, so that unequal arms get one spread relative to the mean and compare by
            the logarithm of their ratio.
        goal: Whether the p-value is adjusted by Holm together with those of the other goals.
    """

    name: Name
    numerator: Name
    denominator: Name | None = None
    before: Name | None = None
    before_denominator: Name | None = None
    is_money: bool = False
    goal: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the metric reads."""
        named = (self.numerator, self.denominator, self.before, self.before_denominator)
        return tuple(name for name in named if name is not None)


class FramePlan(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Plan of the analysis of a file.

    Attributes:
        client: Column of the client; absent if each row is a client.
        arm: Column of the arm.
        control: Name of the control arm.
        weights: Planned share of each arm, for the test of the sample ratio; absent tests none.
        alpha: Two-sided error level.
        metrics: The metrics, each under `[[metric]]`.
    """

    client: Name | None = None
    arm: Name = "arm"
    control: Name
    weights: dict[str, Annotated[float, Meta(gt=0.0)]] = {}
    alpha: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.05
    metrics: Annotated[tuple[MetricPlan, ...], Meta(min_length=1)] = msgspec.field(name="metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult:
    """Metric of one arm against the control.

    Attributes:
        value: Value in the arm, and `control_value` in the control, not adjusted.
        lift: Comparison; by CUPED where the plan names columns of the time before.
        p_adj: p adjusted by Holm over all goals and arms; None outside of that family.
        variance_ratio: Variance of the difference by CUPED over that without; None without CUPED.
    """

    metric: str
    arm: str
    clients: int
    control_clients: int
    value: float | None
    control_value: float | None
    lift: Lift
    p_adj: float | None = None
    variance_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAnalysis:
    """Analysis of a file.

    Attributes:
        clients: Clients of each arm.
        left_out: Clients in several arms or in none.
        ratio: Test of the sample ratio; None without planned weights.
        results: By metric and arm.
    """

    control: str
    alpha: float
    clients: Mapping[str, int]
    left_out: int
    ratio: SampleRatio | None
    results: tuple[FrameResult, ...]


def read_plan(path: Path) -> FramePlan:
    """Return the plan in a TOML file.

    Raises:
        ConfigError: If the file cannot be read, or a field is wrong.
    """
    try:
        plan = msgspec.toml.decode(path.read_bytes(), type=FramePlan)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}") from error
    names = [metric.name for metric in plan.metrics]
    for number, metric in enumerate(plan.metrics):
        if metric.name in names[:number]:
            raise ConfigError(f"{path}: metric '{metric.name}' is there twice")
        if (metric.before_denominator is not None) != (metric.before is not None and metric.denominator is not None):
            raise ConfigError(
                f"{path}: metric '{metric.name}': a ratio with `before` needs `before_denominator`, others take none"
            )
    return plan


def scan(path: Path) -> pl.LazyFrame:
    """Return the rows of a Parquet or CSV file, by its suffix, which are read when they are needed.

    Raises:
        ConfigError: If there is no such file, or it has another suffix.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    if path.suffix == ".csv":
        return pl.scan_csv(path, infer_schema_length=None)
    raise ConfigError(f"{path}: expected a file that ends in .parquet or .csv")


def analyze(frame: pl.LazyFrame | pl.DataFrame, plan: FramePlan) -> FrameAnalysis:
    """Return the metrics of each arm against the control.

    Raises:
        ConfigError: If a column is missing or holds no numbers, or an arm is not as planned.
    """
    columns = tuple(dict.fromkeys(name for metric in plan.metrics for name in metric.columns))
    try:
        moments, left_out = _moments(frame.lazy(), plan, columns)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"the data cannot be read: {error}") from error
    if plan.control not in moments:
        raise ConfigError(f"control = '{plan.control}': the arms of the data are {', '.join(moments) or 'none'}")
    if plan.weights and set(plan.weights) != set(moments):
        raise ConfigError(f"weights of {', '.join(plan.weights)}: the arms of the data are {', '.join(moments)}")
    clients = {arm: part.n for arm, part in moments.items()}
    weights = [plan.weights[arm] for arm in clients] if plan.weights else []
    return FrameAnalysis(
        control=plan.control,
        alpha=plan.alpha,
        clients=clients,
        left_out=left_out,
        ratio=sample_ratio(list(clients.values()), weights) if weights else None,
        results=_adjusted(_results(plan, moments, columns), plan),
    )


def _moments(frame: pl.LazyFrame, plan: FramePlan, columns: Sequence[str]) -> tuple[dict[str, Moments], int]:
    schema = frame.collect_schema()
    for name in (*([plan.client] if plan.client else []), plan.arm, *columns):
        if name not in schema:
            raise ConfigError(f"column '{name}' is not in the data; there are {', '.join(schema)}")
    for name in columns:
        if not (schema[name].is_numeric() or schema[name] == pl.Boolean):
            raise ConfigError(f"column '{name}' holds {schema[name]}, expected numbers")
    if plan.client is None:
        frame = frame.with_row_index(_ROW)
    client, arm = plan.client or _ROW, pl.col(plan.arm).cast(pl.String)
    arms = frame.select(arm.unique().sort()).collect(engine="streaming").to_series().drop_nulls().to_list()
    # Rows wait in memory for their group, so an arm is the smallest number. The last one stands for no arm.
    number = arm.cast(pl.Enum(arms)).to_physical().cast(pl.UInt8 if len(arms) < 256 else pl.UInt32)
    names = [f"sum {place}" for place in range(len(columns))]
    sums = (
        frame.select(
            pl.col(client),
            number.fill_null(len(arms)).alias("first arm"),
            *(pl.col(column).cast(pl.Float64).alias(name) for name, column in zip(names, columns, strict=True)),
        )
        .group_by(client)
        .agg(pl.col("first arm").min(), pl.col("first arm").max().alias("last arm"), pl.col(names).sum())
        # Moments of floats depend on their order in the last digits, so the clients get a fixed one.
        .sort(client)
        .collect(engine="streaming")
    )
    single = sums.filter((pl.col("first arm") == pl.col("last arm")) & (pl.col("first arm") < len(arms)))
    found = {}
    for place, name in enumerate(arms):
        part = single.filter(pl.col("first arm") == place).select(names)
        if part.is_empty():
            continue
        x_NK = np.ascontiguousarray(part.to_numpy())
        if not np.isfinite(x_NK).all():
            column = columns[int(np.flatnonzero(~np.isfinite(x_NK).all(axis=0))[0])]
            raise ConfigError(f"column '{column}' holds a value that is no finite number")
        found[name] = Moments.of(x_NK)
    return found, len(sums) - len(single)


def _results(plan: FramePlan, moments: Mapping[str, Moments], columns: Sequence[str]) -> list[FrameResult]:
    def quotient(above: str, below: str | None) -> Quotient:
        return Quotient(columns.index(above), None if below is None else columns.index(below))

    control = moments[plan.control]
    keys = [(metric, arm) for metric in plan.metrics for arm in moments if arm != plan.control]
    quotients = [quotient(metric.numerator, metric.denominator) for metric, _ in keys]
    pairs = [
        comparable(of_quotient(now, control), of_quotient(now, moments[arm]), is_money=metric.is_money)
        for (metric, arm), now in zip(keys, quotients, strict=True)
    ]
    results: list[FrameResult] = []
    lifts = inference.compare_all(pairs, plan.alpha)
    for (metric, arm), now, (base, found), lift in zip(keys, quotients, pairs, lifts, strict=True):
        tested, variance_ratio = lift, None
        if metric.before is not None:
            before = quotient(metric.before, metric.before_denominator)
            adjusted = cuped.compare(control, moments[arm], now, before, plan.alpha)
            if adjusted is not None:
                tested, variance_ratio = adjusted.lift, adjusted.variance_ratio
        results.append(
            FrameResult(
                metric=metric.name,
                arm=arm,
                clients=found.n,
                control_clients=control.n,
                value=found.value,
                control_value=base.value,
                lift=tested,
                variance_ratio=variance_ratio,
            )
        )
    return results


def _adjusted(results: Sequence[FrameResult], plan: FramePlan) -> tuple[FrameResult, ...]:
    goals = {metric.name for metric in plan.metrics if metric.goal}
    family = [each for each in results if each.metric in goals and each.lift.p_fixed is not None]
    p_values = inference.holm([each.lift.p_fixed for each in family if each.lift.p_fixed is not None])
    adjusted = {(each.metric, each.arm): p for each, p in zip(family, p_values, strict=True)}
    return tuple(replace(each, p_adj=adjusted.get((each.metric, each.arm))) for each in results)
