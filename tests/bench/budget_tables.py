"""Tables of page rankers under labelling budgets, with intervals over repetitions, such as the worlds of a shop."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from stream.errors import ConfigError
from tests.bench.page_rankers import BUDGETS, LABELS_ALONE

Floats = NDArray[np.float64]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """Means of one repetition.

    Attributes:
        seed: Its seed.
        right: Share of right pairs by kind of teachers.
        pages: NDCG@10 of the scores of each kind of teachers as a page, and of the incoming order.
        quality: NDCG@10 by row, for each budget.
        orders: Expected orders by row, as the ratio to those of the incoming order, for each budget; empty if unknown.
    """

    seed: int
    right: dict[str, float]
    pages: dict[str, float]
    quality: dict[str, list[float]]
    orders: dict[str, list[float]] = {}


class Records:
    """The records of a run, and those that a file holds from other runs.

    Raises:
        ConfigError: If a line of the file is no record; the message names it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.found: list[Record] = []
        if path is not None and path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    self.found.append(msgspec.json.decode(line, type=Record))
                except msgspec.MsgspecError as error:
                    raise ConfigError(f"{path}, line {number}: {error}") from error

    def add(self, record: Record) -> None:
        """Add a record, and write it to the file, so that a run may end early.

        Raises:
            ConfigError: If there is one of its seed.
        """
        self.check_new(record.seed)
        self.found.append(record)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(record) + b"\n")

    def check_new(self, seed: int) -> None:
        """Refuse a seed that has a record.

        Raises:
            ConfigError: If there is one.
        """
        if any(each.seed == seed for each in self.found):
            raise ConfigError(f"{self._path} has a record of seed {seed}: name another file, or other seeds")


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences of repetitions, and its interval of 95 % by Student's t.

    A repetition draws everything anew, its pages too, so the spread of the means holds that of the pages. The ends are
    NaN for one repetition, which has no interval.

    >>> [round(value, 3) for value in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    values = np.array(differences)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(special.stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / float(np.sqrt(n))
    return mean, mean - half, mean + half


def tables(records: Sequence[Record], unit: str) -> str:
    """Return the tables: teachers, page rankers, and each row less labels alone; `unit` names a repetition."""
    first = records[0]
    lines = ["| teachers | right pairs | NDCG@10 of their scores as a page |", "|---|---|---|"]
    for name in first.pages:
        right = f"{np.mean([each.right[name] for each in records]):.3f}" if name in first.right else ""
        lines.append(f"| {name} | {right} | {np.mean([each.pages[name] for each in records]):.4f} |")
    budgets = [f"{100 * p:.0f} %" for p in BUDGETS]
    lines += ["", f"| row | {' | '.join(budgets)} |", "|---" * (1 + len(BUDGETS)) + "|"]
    for row in first.quality:
        means = np.mean([each.quality[row] for each in records], axis=0)
        lines.append(f"| {row} | {' | '.join(f'{mean:.4f}' for mean in means)} |")
    lines += ["", *_less(records, unit, LABELS_ALONE.name)]
    lines += ["", "| labels alone, less all grades | NDCG@10 (interval) |", "|---|---|"]
    for number, name in enumerate(budgets[:-1]):
        own = [each.quality[LABELS_ALONE.name] for each in records]
        lines.append(f"| {name} | {cell([values[number] - values[-1] for values in own])} |")
    return "\n".join(lines) + "\n"


def _less(records: Sequence[Record], unit: str, base: str) -> list[str]:
    has_orders = bool(records[0].orders)
    heads = ["row, less labels alone", "budget", "NDCG@10 (interval)", f"by {unit}"]
    heads += ["orders (interval)"] if has_orders else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in records[0].quality:
        if row == base:
            continue
        for number, p in enumerate(BUDGETS):
            gains = _differences([each.quality for each in records], row, base, number)
            cells = [row, f"{100 * p:.0f} %", cell(gains), " ".join(f"{each:+.3f}" for each in gains)]
            if has_orders:
                orders = _differences([each.orders for each in records], row, base, number)
                cells.append(cell([100 * each for each in orders], 1, " %"))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _differences(measures: Sequence[Mapping[str, Sequence[float]]], row: str, base: str, number: int) -> list[float]:
    return [own[row][number] - own[base][number] for own in measures]


def cell(differences: Sequence[float], digits: int = 4, unit: str = "") -> str:
    """Return the mean of paired differences, with its interval where there are several."""
    mean, low, high = interval(differences)
    bounds = f" ({low:+.{digits}f} to {high:+.{digits}f})" if len(differences) > 1 else ""
    return f"{mean:+.{digits}f}{unit}{bounds}"
