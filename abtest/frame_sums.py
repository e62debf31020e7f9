"""Sums of the clients of a data frame or a file, and their moments by arm.

Source: docs/experiments.md, Analysis of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from abtest.frame_groups import Groups, grouped
from abtest.frame_plan import FramePlan
from abtest.moments import Moments, merge
from stream.errors import ConfigError

# A column with more values than this is no column of arms or strata.
_MAX_ARMS = 1_000
# Sums of floats are rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSums:
    """Clients of a file by their arm.

    Attributes:
        moments: Arm to the moments of its clients' sums, columns as in the plan; arms of the plan without clients too.
        strata: Names of the strata, in their order; one without a name if the plan has none.
        by_stratum: Arm to the number of each of its strata to its moments, of those with clients.
        left_out: Clients in several arms or strata, or in none.
        rows_without_client: Rows that name no client, left out.
    """

    moments: Mapping[str, Moments]
    strata: tuple[str, ...]
    by_stratum: Mapping[str, Mapping[int, Moments]]
    left_out: int
    rows_without_client: int


def scan(path: Path) -> pl.LazyFrame:
    """Return the rows of a Parquet or CSV file, by its suffix, which are read when they are needed.

    Columns of a CSV file are separated by the most frequent of comma, semicolon and tab in its first line.

    Raises:
        ConfigError: If there is no such file, or it has another suffix.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pl.scan_parquet(path)
    if suffix == ".csv":
        with path.open("rb") as file:
            header = file.readline(1 << 20)
        separator = max(",;\t", key=lambda each: header.count(each.encode()))
        return pl.scan_csv(path, infer_schema_length=None, separator=separator)
    raise ConfigError(f"{path}: expected a file that ends in .parquet or .csv")


def client_sums(frame: pl.LazyFrame, plan: FramePlan) -> ClientSums:
    """Return the moments of each arm.

    Raises:
        ConfigError: If a column is missing, of another type, or holds a value that the plan rules out.
    """
    try:
        return _client_sums(frame, plan)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"the data cannot be read: {error}") from error


def _client_sums(frame: pl.LazyFrame, plan: FramePlan) -> ClientSums:
    schema = frame.collect_schema()
    _check_schema(schema, plan)
    columns = plan.columns
    names = [f"sum {place}" for place in range(len(columns))]
    values = [pl.col(column).cast(pl.Float64) for column in columns]
    arms = _values(frame, plan.arm, "arms")
    strata = [""] if plan.stratum is None else _values(frame, plan.stratum, "strata")
    # Rows wait in memory for their group, so arm and stratum are one small number. The last one stands for none.
    cells = len(arms) * len(strata)
    number = _number(plan.arm, arms) * len(strata)
    if plan.stratum is not None:
        number += _number(plan.stratum, strata)
    cell = number.fill_null(cells).cast(pl.UInt8 if cells < 256 else pl.UInt32)
    groups = grouped(frame, plan.client, cell, values, names)
    is_single = (pl.col("first arm") == pl.col("last arm")) & (pl.col("first arm") < cells)
    single = groups.sums.filter(is_single)
    by_stratum: dict[str, dict[int, Moments]] = {name: {} for name in arms}
    for (place,), part in single.partition_by("first arm", as_dict=True, maintain_order=True).items():
        x_NK = np.ascontiguousarray(part.select(names).to_numpy())
        _check_values(x_NK, part["key"], groups, plan)
        arm, stratum = divmod(int(place), len(strata))
        by_stratum[arms[arm]][stratum] = Moments.of(x_NK)
    moments = {
        name: merge([parts[stratum] for stratum in sorted(parts)], len(columns)) for name, parts in by_stratum.items()
    }
    unplanned = [name for name in moments if plan.weights and name not in plan.weights]
    if unplanned:
        raise ConfigError(f"weights of {', '.join(plan.weights)}: the arms of the data are {', '.join(moments)}")
    moments |= {name: Moments.empty(len(columns)) for name in plan.weights if name not in moments}
    return ClientSums(
        moments=moments,
        strata=tuple(strata),
        by_stratum=by_stratum,
        left_out=len(groups.sums) - len(single),
        rows_without_client=groups.rows_without_client,
    )


def _values(frame: pl.LazyFrame, column: str, kind: str) -> list[str]:
    """Return the values of a column of names, ascending."""
    named = pl.col(column).cast(pl.String)
    found = frame.select(named.unique().sort().alias("name")).collect(engine="streaming").to_series().drop_nulls()
    if len(found) > _MAX_ARMS:
        raise ConfigError(f"column '{column}' holds {len(found):,} values, expected at most {_MAX_ARMS:,} {kind}")
    return found.to_list()


def _number(column: str, values: Sequence[str]) -> pl.Expr:
    return pl.col(column).cast(pl.String).cast(pl.Enum(values)).to_physical().cast(pl.UInt32)


def _check_schema(schema: Mapping[str, pl.DataType], plan: FramePlan) -> None:
    named = [name for name in (plan.client, plan.arm, plan.stratum) if name is not None]
    for name in (*named, *plan.columns):
        if name not in schema:
            raise ConfigError(f"column '{name}' is not in the data; there are {', '.join(schema)}")
    for name in plan.columns:
        if not (schema[name].is_numeric() or schema[name] == pl.Boolean):
            raise ConfigError(f"column '{name}' holds {schema[name]}, expected numbers")
    for name in named:
        if schema[name].is_nested() or schema[name] in {pl.Object, pl.Null, pl.Unknown}:
            raise ConfigError(f"column '{name}' holds {schema[name]}, expected text or whole numbers")


def _check_values(x_NK: NDArray[np.float64], key_N: pl.Series, groups: Groups, plan: FramePlan) -> None:
    """Refuse sums that are no numbers, and those that the metrics rule out.

    Shapes: `x_NK` has the columns of the plan.
    """
    columns = plan.columns

    def refuse(bad_N: NDArray[np.bool_], column: str, expected: str) -> None:
        if bad_N.any():
            at = int(np.argmax(bad_N))
            key = key_N[at]
            client = f" for client '{groups.name_of(key)}'" if plan.client else f" in row {key}"
            found = x_NK[at, columns.index(column)]
            raise ConfigError(f"column '{column}' holds {found:g}{client}, expected {expected}")

    for place, column in enumerate(columns):
        refuse(~np.isfinite(x_NK[:, place]), column, "finite numbers")
    for metric in plan.metrics:
        for below in filter(None, (metric.denominator, metric.before_denominator)):
            refuse(x_NK[:, columns.index(below)] < 0.0, below, f"0 or more: '{metric.name}' divides by it")
        if metric.is_share:
            part_N = x_NK[:, columns.index(metric.numerator)]
            whole_N: NDArray[np.float64] | float = 1.0
            if metric.denominator is not None:
                whole_N = x_NK[:, columns.index(metric.denominator)]
            most = "1" if metric.denominator is None else f"'{metric.denominator}'"
            bad_N = (part_N < 0.0) | (part_N > whole_N * (1.0 + _ROUNDING))
            refuse(bad_N, metric.numerator, f"0 to {most}: '{metric.name}' is a share")
