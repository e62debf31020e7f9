"""PromQL expressions that several panels use."""

from deploy.grafana.model import Query

STEP = "[$__rate_interval]"
# The join also reads the clock's ticks, which are no events.
EVENTS = '{topic!="ticks"}'


def rate(metric: str, labels: str = "") -> str:
    """Return the rate of `metric` per second."""
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
    """Return `part` as a share of `whole`."""
    # A part that never happened has no series yet and must count as zero.
    return f"(sum({part}) or vector(0)) / sum({whole})"
