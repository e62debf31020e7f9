"""Plan of the analysis of a data frame or a file: its columns, arms and metrics.

Source: docs/experiments.md, Analysis of a file.
"""

import codecs
import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from stream.errors import ConfigError

Name = Annotated[str, Meta(min_length=1)]


class MetricPlan(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Metric of a file.

    Attributes:
        name: Name in the results.
        numerator: Column whose sum is the numerator.
        denominator: Column of the denominator, 0 or more for each client; absent divides by the number of clients.
        before: Column of the numerator before the experiment, for CUPED.
        before_denominator: Column of the denominator before the experiment.
        is_money: Whether amounts are skewed, so that unequal arms get one spread relative to the mean and compare by
            the logarithm of their ratio.
        is_share: Whether the numerator is a part of the denominator, or of 1 without one, for each client.
        goal: Whether the p-value is adjusted together with those of the other goals.
    """

    name: Name
    numerator: Name
    denominator: Name | None = None
    before: Name | None = None
    before_denominator: Name | None = None
    is_money: bool = False
    is_share: bool = False
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
        stratum: Column of the stratum of a client, such as the epoch of a ramp; absent pools all clients.
        weights: Planned share of each arm, for the test of the sample ratio; absent tests none.
        alpha: Two-sided error level.
        tightest_clients: Clients of both arms at which the confidence sequence is tightest, chosen before the data are
            seen; absent gives no sequence.
        adjustment: How the p-values of the goals are adjusted: for the chance of any false finding, or for the share
            of false ones among the findings.
        metrics: The metrics, each under `[[metric]]`.
    """

    client: Name | None = None
    arm: Name = "arm"
    control: Name
    stratum: Name | None = None
    weights: dict[str, Annotated[float, Meta(gt=0.0)]] = {}
    alpha: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.05
    tightest_clients: Annotated[int, Meta(ge=1)] | None = None
    adjustment: Literal["holm", "benjamini_hochberg"] = "holm"
    metrics: Annotated[tuple[MetricPlan, ...], Meta(min_length=1)] = msgspec.field(name="metric")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of all metrics, each once."""
        return tuple(dict.fromkeys(name for metric in self.metrics for name in metric.columns))


def read_plan(path: Path) -> FramePlan:
    """Return the plan in a TOML file.

    Raises:
        ConfigError: If the file cannot be read, or a field is wrong.
    """
    try:
        plan = msgspec.toml.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=FramePlan)
        check(plan)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return plan


def check(plan: FramePlan) -> None:
    """Refuse a plan with a field that is wrong, as a program may build one.

    Raises:
        ConfigError: If a field is wrong.
    """
    try:
        msgspec.convert(msgspec.to_builtins(plan), FramePlan)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ConfigError(f"plan: {error}") from error
    for field, number in (("alpha", plan.alpha), *((f"weights.{arm}", share) for arm, share in plan.weights.items())):
        if not math.isfinite(number):
            raise ConfigError(f"{field} = {number}: expected a finite number")
    if plan.weights and (plan.control not in plan.weights or len(plan.weights) < 2):
        raise ConfigError(
            f"weights of {', '.join(plan.weights)}: expected the control '{plan.control}' and another arm"
        )
    if plan.stratum is not None and plan.stratum in {plan.arm, plan.client}:
        raise ConfigError(f"stratum = '{plan.stratum}': expected a column of its own")
    names = [metric.name for metric in plan.metrics]
    for place, metric in enumerate(plan.metrics):
        if metric.name in names[:place]:
            raise ConfigError(f"metric '{metric.name}' is there twice")
        if (metric.before_denominator is not None) != (metric.before is not None and metric.denominator is not None):
            raise ConfigError(
                f"metric '{metric.name}': a ratio with `before` needs `before_denominator`, others take none"
            )
        if metric.before is not None and metric.before == metric.numerator:
            raise ConfigError(f"metric '{metric.name}': `before` is the column of the numerator")
        for column in metric.columns:
            if column == plan.arm:
                raise ConfigError(f"metric '{metric.name}': column '{column}' is that of the arms")
