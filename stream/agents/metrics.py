"""Prometheus metrics of the join worker: name, type, labels and help text of each.

Source: docs/operations.md.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Counter, Gauge, Histogram

from stream.join.engine import Join
from stream.join.outcome_counters import reason_and_source
from stream.process_metrics import process_registry
from stream.schemas import topics
from stream.schemas.outcomes import OUTCOME_OF_REASON, OUTCOMES

_DELAYS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class JoinMetrics:
    """Metrics of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = process_registry()
        self.events = Counter("shelfwise_join_events", "Records read, ticks included", ["topic"], registry=registry)
        self.outcomes = Counter("shelfwise_join_outcomes", "Events by outcome", ["outcome"], registry=registry)
        self.reasons = Counter(
            "shelfwise_join_outcome_reasons",
            "Events by the reason code of their outcome",
            ["reason"],
            registry=registry,
        )
        self.unjoined = Counter(
            "shelfwise_join_unjoined",
            "Late and orphaned events by reason and by the program that wrote them; beyond 20 programs `other`",
            ["reason", "source"],
            registry=registry,
        )
        self.sessions = Counter(
            "shelfwise_join_sessions",
            "Session records emitted; reason `close` is the first of a session, others correct it",
            ["reason"],
            registry=registry,
        )
        self.lag = Gauge(
            "shelfwise_join_lag_offsets", "Records not acknowledged yet", ["topic", "partition"], registry=registry
        )
        self.watermark_age = Gauge(
            "shelfwise_join_watermark_age_seconds", "Join clock minus watermark", ["partition"], registry=registry
        )
        self.state_bytes = Gauge("shelfwise_join_state_bytes", "Size of the state", ["tier"], registry=registry)
        self.hot_budget = Gauge(
            "shelfwise_join_hot_budget_bytes",
            "Size of the hot tier above which inputs that run ahead are paused",
            registry=registry,
        )
        self.open_sessions = Gauge(
            "shelfwise_join_open_sessions", "Sessions whose click window is open", registry=registry
        )
        self.waiting_events = Gauge(
            "shelfwise_join_waiting_events",
            "Clicks and order lines that wait for the event that they refer to",
            registry=registry,
        )
        self.paused = Gauge("shelfwise_join_paused", "Partitions that are paused", ["topic"], registry=registry)
        self.pauses = Counter("shelfwise_join_pauses", "Pauses of a partition", ["topic"], registry=registry)
        self.emit_delay = Histogram(
            "shelfwise_join_emit_delay_seconds",
            "Time from reading a micro-batch to the confirmation of the sessions that it closed",
            buckets=_DELAYS_S,
            registry=registry,
        )
        self.rebalances = Counter("shelfwise_join_rebalances", "Assignments of partitions", registry=registry)
        for outcome in OUTCOMES:
            self.outcomes.labels(outcome)
        for topic in topics.EVENT_TOPICS:
            self.paused.labels(topic)
            self.pauses.labels(topic)

    def count(self, counters: Mapping[str, int], seen: dict[str, int]) -> None:
        """Add the gains of a partition's counters since `seen`, and record them there."""
        for name, value in _gains(counters, seen):
            if name in OUTCOMES:
                self.outcomes.labels(name).inc(value)
            elif name in OUTCOME_OF_REASON:
                self.reasons.labels(name).inc(value)
            elif (found := reason_and_source(name)) is not None:
                self.unjoined.labels(*found).inc(value)

    def observe(self, joins: Mapping[int, Join], paused: Iterable[Iterable[str]], *, hot_max_bytes: int) -> None:
        """Set the gauges of the joins by partition, and of the topics that are paused in each."""
        num_bytes: collections.Counter[str] = collections.Counter()
        for partition, join in joins.items():
            self.watermark_age.labels(partition).set(max(0, join.now_ts - join.watermark_ts) / 1_000)
            for tier, size in join.state_bytes.items():
                num_bytes[tier] += size
        for tier, size in num_bytes.items():
            self.state_bytes.labels(tier).set(size)
        self.open_sessions.set(sum(join.open_sessions for join in joins.values()))
        self.waiting_events.set(sum(join.waiting_events for join in joins.values()))
        self.hot_budget.set(len(joins) * hot_max_bytes)
        num_paused = collections.Counter(topic for names in paused for topic in names)
        for topic in topics.EVENT_TOPICS:
            self.paused.labels(topic).set(num_paused[topic])

    def clear_partitions(self) -> None:
        """Remove the gauges of partitions that another worker may own now."""
        self.lag.clear()
        self.watermark_age.clear()


def _gains(counters: Mapping[str, int], seen: dict[str, int]) -> Iterator[tuple[str, int]]:
    for name, value in counters.items():
        gained = value - seen.get(name, 0)
        if gained > 0:
            yield name, gained
        seen[name] = value
