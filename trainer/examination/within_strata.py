"""Fits of the curve to clicks within strata: a count regression, and expectation maximisation.

Both read cells: a stratum at a group of neighbouring positions, with the items shown and those clicked. The chance of
a click is examination of the group times attractiveness of the stratum.

Legend: S strata, G groups, cells [S,G].
"""

from dataclasses import dataclass

import numpy as np

from trainer.examination.observations import Floats, Ints

_ROUNDS = 50
_TOLERANCE = 1e-9
_EM_ROUNDS = 200
_EM_TOLERANCE = 1e-5
_STEEPEST = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Counts by stratum and group.

    Attributes:
        shown: [S,G] items shown.
        clicked: [S,G] items clicked.
    """

    shown: Floats
    clicked: Floats

    @classmethod
    def count(cls, stratum: Ints, group: Ints, is_clicked: Floats, weight: Floats, shape: tuple[int, int]) -> "Cells":
        """Return the cells of rows, each counted `weight` times."""
        cell = stratum * shape[1] + group
        size = shape[0] * shape[1]
        shown, clicked = (
            np.bincount(cell, weights=each, minlength=size).astype(np.float64).reshape(shape)
            for each in (weight, weight * is_clicked)
        )
        return cls(shown=shown, clicked=clicked)

    def merged(self, starts: Ints) -> "Cells":
        """Return the cells of coarser groups that begin at the given columns."""
        return Cells(
            shown=np.add.reduceat(self.shown, starts, axis=1), clicked=np.add.reduceat(self.clicked, starts, axis=1)
        )


def by_counts(cells: Cells, start: Floats | None = None) -> Floats:
    """Return the logarithm of the examination of each group, 0 of the first, by a count regression.

    The attractiveness of each stratum is a free constant that drops out: given the clicks of a stratum, they fall on
    groups in proportion to items shown times examination. So few clicks per stratum do no harm. Groups that no stratum
    compares with others come out arbitrary: check `components` first.

    Source: Hausman, Hall and Griliches 1984, Econometric Models for Count Data, the conditional fixed-effects Poisson
    model; Agarwal, Zaitsev, Wang, Li, Najork and Joachims 2019, Estimating Position Bias without Intrusive
    Interventions, which compares positions likewise.

    Shapes: result (G,).
    """
    log_theta = np.zeros(cells.shown.shape[1]) if start is None else start.copy()
    clicks_S, clicks_G = cells.clicked.sum(axis=1), cells.clicked.sum(axis=0)
    value, share_SG = _likelihood(cells, log_theta)
    for _ in range(_ROUNDS):
        expected_SG = clicks_S[:, None] * share_SG
        gradient = clicks_G - expected_SG.sum(axis=0)
        curvature = np.diag(expected_SG.sum(axis=0)) - expected_SG.T @ share_SG
        # Only ratios are known: the first group stays. The small ridge keeps groups without clicks from running away.
        step = np.zeros_like(log_theta)
        step[1:] = np.linalg.solve(curvature[1:, 1:] + 1e-6 * np.eye(len(step) - 1), gradient[1:])
        step = np.clip(step, -3.0, 3.0)
        for _ in range(20):
            moved = np.clip(log_theta + step, -_STEEPEST, _STEEPEST)
            new, share = _likelihood(cells, moved)
            if new >= value - 1e-12 * abs(value):
                break
            step = step / 2
        is_done = bool(np.abs(moved - log_theta).max() < _TOLERANCE)
        log_theta, value, share_SG = moved, new, share
        if is_done:
            break
    return log_theta


def effective_clicks(cells: Cells, log_theta: Floats) -> Floats:
    """Return the information on the logarithm of each group's examination, in clicks.

    A click of a stratum that stood at one group only tells nothing; one that could as well have fallen on another group
    counts up to 1/4 for both. The standard error of the logarithm is at least one over the square root.

    Shapes: (G,) to (G,).
    """
    _, share_SG = _likelihood(cells, log_theta)
    return np.asarray((cells.clicked.sum(axis=1)[:, None] * share_SG * (1 - share_SG)).sum(axis=0))


def by_em(cells: Cells, start: Floats | None = None) -> Floats:
    """Return the logarithm of the examination of each group, 0 of the first, by expectation maximisation.

    The attractiveness is regressed on indicators of the strata. Shared features would be fewer numbers, but what the
    ranker knew beyond them would pass for examination.

    Source: Wang, Golbandi, Bendersky, Metzler and Najork 2018, Position Bias Estimation for Unbiased Learning to Rank
    in Personal Search, equations 1 to 3.

    Shapes: result (G,).
    """
    log_theta = by_counts(cells, start)
    stratum, group = np.nonzero(cells.shown)
    shown, clicked = cells.shown[stratum, group], cells.clicked[stratum, group]
    num_S, num_G = cells.shown.shape
    shown_S, shown_G = np.maximum(cells.shown.sum(axis=1), 1e-12), np.maximum(cells.shown.sum(axis=0), 1e-12)
    theta = np.exp(log_theta - log_theta.max()) * 0.95
    appeal = np.clip(cells.clicked.sum(axis=1) / np.maximum(cells.shown @ theta, 1e-12), 0.0, 0.95)
    for _ in range(_EM_ROUNDS):
        examined, attractive = theta[group], appeal[stratum]
        no_click = (shown - clicked) / np.maximum(1 - examined * attractive, 1e-12)
        seen = clicked + no_click * examined * (1 - attractive)
        liked = clicked + no_click * attractive * (1 - examined)
        theta = np.bincount(group, weights=seen, minlength=num_G) / shown_G
        appeal = np.bincount(stratum, weights=liked, minlength=num_S) / shown_S
        new = np.log(np.maximum(theta, 1e-12))
        new = new - new[0]
        is_done = bool(np.abs(new - log_theta).max() < _EM_TOLERANCE)
        log_theta = new
        if is_done:
            break
    return np.asarray(log_theta)


def components(cells: Cells) -> list[list[int]]:
    """Return the groups that strata with clicks compare with one another, the one of the first group first."""
    is_shown = cells.shown[cells.clicked.sum(axis=1) > 0] > 0
    label = np.arange(cells.shown.shape[1])
    for groups in np.unique(is_shown, axis=0):
        members = np.flatnonzero(groups)
        joined = np.isin(label, label[members])
        if members.size:
            label[joined] = label[members].min()
    return [np.flatnonzero(label == each).tolist() for each in np.unique(label)]


def _likelihood(cells: Cells, log_theta: Floats) -> tuple[float, Floats]:
    """Return the log likelihood given the clicks of each stratum, and each group's share of a stratum's clicks."""
    weighted = cells.shown * np.exp(log_theta)
    share = weighted / np.maximum(weighted.sum(axis=1, keepdims=True), 1e-300)
    has_clicks = cells.clicked > 0
    return float((cells.clicked[has_clicks] * np.log(share[has_clicks])).sum()), share
