"""Breakers: one for each measure, closed while the measure is inside of its band.

A measure sums over windows until it says enough to become part of the past. It is compared at each window with what it
has summed so far, so that a dead topic is noticed at once and a slow drift of a rare label later. A window that trips a
breaker, or that comes while one is open, teaches the past nothing.

Source: docs/training.md, "Breakers".
"""

import math
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.breakers.bands import BandLimits, Count, Finding, Kind, find, is_outside, on_scale
from trainer.versions.atomic_folder import Tensors

FILE: Final = "breakers"
"""Name of the file of a checkpoint."""
CLICKS: Final = "click_rate"
ORDERS: Final = "order_rate"
LOSS: Final = "loss"
NULLS: Final = "null_"
"""Start of the names of the measures of features."""

_PAST: Final = 256
_FEW_LISTS: Final = 20
_HITS: Final = 20
_MANY_LISTS: Final = 5_000


def kind_of(name: str) -> Kind:
    """Return the kind of a measure.

    >>> kind_of("null_price"), kind_of("click_rate")
    ('null', 'label')
    """
    if name.startswith(NULLS):
        return "null"
    return "loss" if name == LOSS else "label"


class _Series:
    """One measure: its past, the sums that are not part of it yet, and whether its breaker is open."""

    def __init__(self) -> None:
        self.past: list[float] = []
        self.sums = Count(0.0, 0.0, 0.0)
        self.since_ts = 0
        self.is_open = False


class Breakers:
    """All breakers of a lineage.

    Args:
        limits: Width of the bands.
    """

    def __init__(self, limits: BandLimits) -> None:
        self._limits = limits
        self._series: dict[str, _Series] = {}

    def states(self) -> dict[str, bool]:
        """Return whether the breaker of each measure is open."""
        return {name: own.is_open for name, own in sorted(self._series.items())}

    def judge(self, counts: Mapping[str, Count], from_ts: int, *, is_bad: bool = False) -> dict[str, Finding]:
        """Take the counts of a window, and return the measures that keep it from being learned; empty if none does.

        Args:
            counts: Sums of the window by measure.
            from_ts: Start of the window in watermark time.
            is_bad: Whether the window is left out in any case, and so teaches nothing.
        """
        tripped: dict[str, Finding] = {}
        still_open: dict[str, Finding] = {}
        sums: dict[str, Count] = {}
        for name, count in counts.items():
            own = self._series.setdefault(name, _Series())
            sums[name] = own.sums + count
            since_ts = own.since_ts if own.sums.lists else from_ts
            found = find(kind_of(name), sums[name], own.past, since_ts)
            if self._trips(name, own, sums[name], found):
                tripped[name] = found
            elif own.is_open and not self._is_enough(name, sums[name]):
                still_open[name] = found
        for name, is_open in self.states().items():
            if is_open and name not in counts:
                still_open[name] = Finding(math.nan, math.nan, 0.0, 0.0, from_ts)
        keeps_out = tripped | still_open
        for name, total in sums.items():
            own = self._series[name]
            if name in tripped:
                own.is_open, own.sums = True, Count(0.0, 0.0, 0.0)
            elif name in still_open:
                self._sum(own, total, from_ts)
            elif own.is_open:
                own.is_open, own.sums = False, Count(0.0, 0.0, 0.0)
            elif not keeps_out and not is_bad:
                self._sum(own, total, from_ts)
                if self._is_enough(name, total):
                    own.past = [*own.past, on_scale(kind_of(name), total)][-_PAST:]
                    own.sums = Count(0.0, 0.0, 0.0)
        return keeps_out

    def _sum(self, own: _Series, total: Count, from_ts: int) -> None:
        if not own.sums.lists:
            own.since_ts = from_ts
        own.sums = total

    def _trips(self, name: str, own: _Series, total: Count, found: Finding) -> bool:
        is_known = len(own.past) >= self._limits.windows and total.lists >= _FEW_LISTS
        return is_known and is_outside(kind_of(name), found, self._limits)

    def _is_enough(self, name: str, total: Count) -> bool:
        """Return whether sums say enough to become part of the past: of a rare label, they hold some."""
        is_rare = kind_of(name) == "label" and total.total < _HITS and total.lists < _MANY_LISTS
        return total.lists >= self._limits.lists and not is_rare

    def close(self, names: Collection[str]) -> None:
        """Close the open breakers among these, and forget the past that they were compared with."""
        for name in names:
            if name in self._series and self._series[name].is_open:
                self._series[name] = _Series()

    def to_files(self) -> dict[str, Tensors]:
        """Return the arrays of a checkpoint."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, own in self._series.items():
            arrays[f"{name}.past"] = np.array(own.past, np.float64)
            arrays[f"{name}.sums"] = np.array(own.sums, np.float64)
            arrays[f"{name}.state"] = np.array([own.since_ts, own.is_open], np.int64)
        return {FILE: arrays}

    def restore(self, files: Mapping[str, Tensors]) -> None:
        """Continue from the arrays of a checkpoint; one of an earlier release has none."""
        arrays = files.get(FILE, {})
        self._series = {}
        for name in sorted(each.removesuffix(".past") for each in arrays if each.endswith(".past")):
            own = self._series[name] = _Series()
            own.past = arrays[f"{name}.past"].tolist()
            own.sums = Count(*arrays[f"{name}.sums"].tolist())
            since_ts, is_open = arrays[f"{name}.state"].tolist()
            own.since_ts, own.is_open = since_ts, bool(is_open)
