"""Expressions that the panels share."""

from deploy.grafana.model import Query

STEP = "[$__rate_interval]"


def rate(metric: str, labels: str = "") -> str:
    """Return how often `metric` rises in a second."""
    return f"rate({metric}{labels}{STEP})"


def quantiles(metric: str, by: str = "", legend: str = "") -> tuple[Query, ...]:
    """Return p50, p95 and p99 of a histogram, for each value of the label `by`."""
    grouping = f"le, {by}" if by else "le"
    return tuple(
        Query(
            text=f"histogram_quantile({q}, sum by ({grouping}) ({rate(f'{metric}_bucket')}))",
            legend=f"p{q * 100:g}{legend}",
        )
        for q in (0.5, 0.95, 0.99)
    )


def share(part: str, whole: str) -> str:
    """Return `part` in shares of `whole`."""
    # Parts that never happened have no series yet: they count as zero of the whole, not as nothing.
    return f"(sum({part}) or vector(0)) / sum({whole})"
