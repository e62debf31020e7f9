"""The experiment metrics: name, title and definition of each, stated once.

Source: docs/experiments.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = (
    "sessions",
    "items",
    "clicks",
    "orders",
    "gross_minor",
    "refund_minor",
    "net_minor",
    "clicked_orders",
    "clicked_gross_minor",
    "fallbacks",
    "timed_sessions",
    "latency_us",
)
"""Sums of a client. Orders and money are all that the client bought since its first exposure; `clicked_` ones are those
that the join attributed to a click in a list. Fallbacks are sessions in incoming order for want of a score; timed
sessions state how long ranking took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Experiment metric: a mean over clients, or a ratio of two sums if it has a denominator.

    Attributes:
        name: Key in plans, results and settings.
        title: Name in reports.
        definition: Quotient in words.
        numerator: Column of `COLUMNS`.
        denominator: Column of `COLUMNS`; None divides by the number of exposed clients.
        is_money: Whether the metric is an amount in minor units.
        can_decide: Whether an experiment can declare it as a goal or as its primary metric.
        waits_for_refunds: Whether a session counts only after its refund window.
        is_time: Whether the metric is a time in microseconds.
        is_cost: Whether less is better.
    """

    name: str
    title: str
    definition: str
    numerator: str
    denominator: str | None = None
    is_money: bool = False
    can_decide: bool = False
    waits_for_refunds: bool = False
    is_time: bool = False
    is_cost: bool = False

    @property
    def is_clicked(self) -> bool:
        """Return whether the metric counts orders after a click only."""
        return self.numerator.startswith("clicked_")


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="ctr",
            title="CTR",
            definition="distinct clicked items / items shown",
            numerator="clicks",
            denominator="items",
            can_decide=True,
        ),
        Metric(
            name="cvr",
            title="CVR",
            definition="orders after a click in the list / sessions",
            numerator="clicked_orders",
            denominator="sessions",
            can_decide=True,
        ),
        Metric(
            name="gmv",
            title="GMV",
            definition="money of all orders since the first exposure, per exposed client, before refunds",
            numerator="gross_minor",
            is_money=True,
            can_decide=True,
        ),
        Metric(
            name="net_gmv",
            title="net GMV",
            definition="money of all orders since the first exposure, per exposed client, after refunds",
            numerator="net_minor",
            is_money=True,
            can_decide=True,
            waits_for_refunds=True,
        ),
        Metric(
            name="aov",
            title="AOV",
            definition="money of all orders / all orders, before refunds",
            numerator="gross_minor",
            denominator="orders",
            is_money=True,
            can_decide=True,
        ),
        Metric(
            name="orders_per_client",
            title="orders per client",
            definition="all orders since the first exposure / exposed clients",
            numerator="orders",
            can_decide=True,
        ),
        Metric(
            name="clicked_gmv",
            title="clicked GMV",
            definition="money of orders after a click in the list, per exposed client, before refunds",
            numerator="clicked_gross_minor",
            is_money=True,
        ),
        Metric(
            name="sessions_per_client",
            title="sessions per client",
            definition="sessions / exposed clients",
            numerator="sessions",
        ),
        Metric(
            name="fallback_share",
            title="fallback share",
            definition="sessions in incoming order by a fallback / sessions",
            numerator="fallbacks",
            denominator="sessions",
            is_cost=True,
        ),
        Metric(
            name="latency",
            title="latency",
            definition="time that ranking took / sessions that state it",
            numerator="latency_us",
            denominator="timed_sessions",
            is_time=True,
            is_cost=True,
        ),
        Metric(
            name="items_per_client",
            title="items shown per client",
            definition="items shown / exposed clients",
            numerator="items",
        ),
    )
}
