"""Sample ratio test: the number of clients in each arm against the planned weights.

If the ratio is off, assignment or logging is broken and the arms cannot be compared.

Source: docs/experiments.md; Fabijan et al. 2019 (sample ratio mismatch).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

ALERT_P = 0.001
BLOCK_P = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Chi-square test of observed against planned numbers of clients.

    Attributes:
        status: `ok`, `alert`, `blocked` or `undefined`.
        reason: Reason of an undefined result, or of one that is blocked without a test.
    """

    observed: tuple[int, ...]
    expected: tuple[float, ...]
    stat: float | None
    p: float | None
    status: str
    reason: str | None = None


def sample_ratio(observed: Sequence[int], weights: Sequence[float]) -> SampleRatio:
    """Test the observed numbers of clients against the planned weights of the arms above zero.

    >>> sample_ratio([495_000, 505_000], [0.5, 0.5]).status, sample_ratio([5_050, 4_950], [0.5, 0.5]).status
    ('blocked', 'ok')

    Raises:
        ValueError: If the numbers of arms differ.
    """
    if len(observed) != len(weights):
        raise ValueError(f"observed = {list(observed)}, weights = {list(weights)}: expected one weight for each arm")
    total, scale = sum(observed), sum(weights)
    expected = tuple(total * weight / scale for weight in weights) if scale else (0.0,) * len(weights)
    counted = [(o, e, w) for o, e, w in zip(observed, expected, weights, strict=True) if w > 0]
    unplanned = sum(o for o, w in zip(observed, weights, strict=True) if w == 0)

    def result(stat: float | None, p: float | None, status: str, reason: str | None = None) -> SampleRatio:
        return SampleRatio(observed=tuple(observed), expected=expected, stat=stat, p=p, status=status, reason=reason)

    if unplanned:
        return result(None, 0.0, "blocked", f"{unplanned} clients in arms of weight zero")
    if len(counted) < 2:
        return result(None, None, "undefined", "fewer than two arms with clients planned")
    if min(e for _, e, _ in counted) < 5.0:
        return result(None, None, "undefined", "fewer than 5 clients expected in an arm")
    found = stats.chisquare([o for o, _, _ in counted], [e for _, e, _ in counted])
    stat, p = float(found.statistic), float(found.pvalue)
    return result(stat, p, "blocked" if p < BLOCK_P else "alert" if p < ALERT_P else "ok")
