"""The estimate of an examination curve, its intervals, and the refusal where the data tell too little.

Source: docs/training.md.
"""

from collections.abc import Callable

import numpy as np

from stream.errors import ConfigError
from trainer.examination.curve import Curve, Positions
from trainer.examination.observations import Floats, Ints, Method, Observations
from trainer.examination.within_strata import Cells, by_counts, by_em, components, effective_clicks

MIN_EFFECTIVE_CLICKS = 20.0
"""Effective clicks of each estimate; positions with fewer share one with their neighbours."""
MIN_VISITS = 50
"""Visits with a click that an interval needs."""
RESAMPLES = 500

Fit = Callable[[Cells, Floats | None], Floats]


def estimate(rows: Observations, method: Method, *, data: str, resamples: int = RESAMPLES, seed: int = 0) -> Curve:
    """Return the curve of the rows, with bootstrap intervals over whole visits.

    Neighbouring positions share one estimate where they have less than `MIN_EFFECTIVE_CLICKS` each.

    Args:
        rows: Rows of the method.
        method: `shuffle` and `swaps` are fitted by counts, `em` by expectation maximisation.
        data: Name of the data.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: If there are too few visits or clicks, or positions that nothing compares with position 1.
    """
    name = f"examination by {method}"
    if not rows.num_lists:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(rows.left_out.items()))
        raise ConfigError(f"{name}: no list that it can use{': ' if reasons else ''}{reasons}")
    num_visits = len(np.unique(rows.unit[rows.is_clicked]))
    if num_visits < MIN_VISITS:
        raise ConfigError(
            f"{name}: {num_visits} visits with a click in {rows.num_lists:,} lists: expected at least {MIN_VISITS}"
        )
    fit: Fit = by_em if method == "em" else by_counts
    # A stratum without a click says nothing about positions.
    clicks_S = np.bincount(rows.stratum, weights=rows.is_clicked)
    kept = np.flatnonzero(clicks_S[rows.stratum] > 0)
    _, stratum = np.unique(rows.stratum[kept], return_inverse=True)
    position, clicked, unit = rows.position[kept], rows.is_clicked[kept].astype(np.float64), rows.unit[kept]
    starts, last, log_theta = _grouped(stratum, position, clicked, rows, name)
    is_within = position <= last
    stratum, position, unit, clicked = stratum[is_within], position[is_within], unit[is_within], clicked[is_within]
    group = np.searchsorted(starts, position, side="right") - 1
    shape = (int(stratum.max()) + 1, len(starts))
    cells = Cells.count(stratum, group, clicked, np.ones(clicked.size), shape)
    log_theta = fit(cells, log_theta)
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, shape[1]))
    for number in range(resamples):
        times = np.bincount(rng.integers(0, rows.num_units, rows.num_units), minlength=rows.num_units)
        draws[number] = fit(Cells.count(stratum, group, clicked, times[unit].astype(np.float64), shape), log_theta)
    low, high = np.quantile(np.exp(draws), [0.025, 0.975], axis=0)
    effective = effective_clicks(cells, log_theta)
    ends = np.append(starts[1:] - 1, last)
    shown = rows.position[rows.position <= last]
    shown_G = np.bincount(np.searchsorted(starts, shown, side="right") - 1, minlength=shape[1])
    return Curve(
        data=data,
        method=method,
        positions=tuple(
            Positions(
                first=int(starts[each]),
                last=int(ends[each]),
                examination=float(np.exp(log_theta[each])),
                low=float(low[each]),
                high=float(high[each]),
                effective_clicks=float(effective[each]),
                num_rows=int(shown_G[each]),
                num_clicks=int(cells.clicked[:, each].sum()),
            )
            for each in range(shape[1])
        ),
        num_lists=rows.num_lists,
        num_visits=rows.num_units,
        num_clicks=rows.num_clicks,
        num_beyond=int(rows.position.max()) - last,
        left_out=rows.left_out,
    )


def _grouped(stratum: Ints, position: Ints, clicked: Floats, rows: Observations, name: str) -> tuple[Ints, int, Floats]:
    """Return the first position of each group, the last position of all, and a first fit.

    Raises:
        ConfigError: If fewer than two groups have enough, or some positions are not compared with the first.
    """
    last = int(rows.position.max())
    shape = (int(stratum.max()) + 1, last)
    cells = Cells.count(stratum, position - 1, clicked, np.ones(position.size), shape)
    _require_comparison(cells, name)
    starts = np.arange(1, last + 1)
    most = 0.0
    while len(starts) > 1:
        merged = cells.merged(starts - 1)
        log_theta = by_counts(merged)
        effective = effective_clicks(merged, log_theta)
        most = max(most, float(effective.max()))
        weakest = int(np.argmin(effective))
        if effective[weakest] < MIN_EFFECTIVE_CLICKS:
            starts = np.delete(starts, _border(effective, weakest))
            continue
        reached = _num_compared(cells, starts)
        if reached == cells.shown.shape[1]:
            return starts, reached, log_theta
        cells = Cells(shown=cells.shown[:, :reached], clicked=cells.clicked[:, :reached])
        starts = starts[starts <= reached]
    raise ConfigError(
        f"{name}: at most {most:.1f} effective clicks at a position, from {rows.num_clicks:,} clicks in"
        f" {rows.num_lists:,} lists: expected at least {MIN_EFFECTIVE_CLICKS:.0f} at two positions"
    )


def _num_compared(cells: Cells, starts: Ints) -> int:
    """Return how many first positions share items with positions outside of their own group.

    Where only neighbours change places, the far end of a wide group is compared with nothing outside: its estimate
    would be that of the near end.
    """
    group = np.searchsorted(starts - 1, np.arange(cells.shown.shape[1]), side="right") - 1
    is_shown = cells.shown > 0
    for position in range(cells.shown.shape[1]):
        outside = is_shown[is_shown[:, position]][:, group != group[position]]
        if not outside.any():
            return position
    return int(cells.shown.shape[1])


def _border(effective: Floats, weakest: int) -> int:
    """Return the group whose start falls away, so that the weakest group joins its weaker neighbour.

    >>> _border(np.array([9.0, 1.0, 3.0]), 1), _border(np.array([0.0, 1.0, 3.0]), 0)
    (2, 1)
    """
    is_first, is_last = weakest == 0, weakest == effective.size - 1
    joins_next = is_first or (not is_last and effective[weakest + 1] < effective[weakest - 1])
    return weakest + 1 if joins_next else weakest


def _require_comparison(cells: Cells, name: str) -> None:
    found = components(cells)
    if len(found) > 1:
        parts = "; ".join(", ".join(str(each + 1) for each in part) for part in found)
        raise ConfigError(f"{name}: no item connects {len(found)} sets of positions: {parts}")
