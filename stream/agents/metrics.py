"""Prometheus metrics of the join worker; the names are those that the dashboards rely on."""

import collections
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from stream.join import OUTCOME_OF_REASON, OUTCOMES, Join
from stream.schemas import topics

_DELAYS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class JoinMetrics:
    """The metrics of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.events = Counter("shelfwise_join_events", "Records read", ["topic"], registry=registry)
        self.fate = Counter("shelfwise_join_fate", "Events by what became of them", ["fate"], registry=registry)
        self.reason = Counter("shelfwise_join_reason", "Events by reason code", ["reason"], registry=registry)
        self.sessions = Counter("shelfwise_join_sessions", "Sessions emitted", ["reason"], registry=registry)
        self.lag = Gauge("shelfwise_join_lag_offsets", "Unread records", ["topic", "partition"], registry=registry)
        self.watermark_age = Gauge(
            "shelfwise_join_watermark_age_seconds", "Clock minus watermark", ["partition"], registry=registry
        )
        self.state_bytes = Gauge("shelfwise_join_state_bytes", "Bytes of state", ["tier"], registry=registry)
        self.hot_budget = Gauge(
            "shelfwise_join_hot_budget_bytes",
            "Bytes of hot state beyond which reading is evened out",
            registry=registry,
        )
        self.open_sessions = Gauge("shelfwise_join_open_sessions", "Sessions not closed yet", registry=registry)
        self.waiting_events = Gauge(
            "shelfwise_join_waiting_events", "Clicks and order lines that wait", registry=registry
        )
        self.paused = Gauge("shelfwise_join_paused", "Partitions paused now", ["topic"], registry=registry)
        self.pauses = Counter(
            "shelfwise_join_pauses", "Times that a partition was paused", ["topic"], registry=registry
        )
        self.emit_delay = Histogram(
            "shelfwise_join_emit_delay_seconds",
            "From reading a slice to the confirmation of the sessions that it closed",
            buckets=_DELAYS_S,
            registry=registry,
        )
        self.rebalances = Counter("shelfwise_join_rebalances", "Assignments of partitions", registry=registry)
        for fate in OUTCOMES:
            self.fate.labels(fate)
        for topic in topics.EVENT_TOPICS:
            self.paused.labels(topic)
            self.pauses.labels(topic)

    def count(self, counters: Mapping[str, int], seen: dict[str, int]) -> None:
        """Add what a partition's counters gained since `seen`, and note it there."""
        for name, value in _gains(counters, seen):
            if name in OUTCOMES:
                self.fate.labels(name).inc(value)
            elif name in OUTCOME_OF_REASON:
                self.reason.labels(name).inc(value)

    def observe(self, joins: Mapping[int, Join], paused: Iterable[Iterable[str]], *, hot_max_bytes: int) -> None:
        """Set what is measured of the joins by partition, and of the topics that are paused in each."""
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

    def serve(self, host: str, port: int) -> None:
        """Answer scrapes from a thread until the process ends."""
        start_http_server(port, addr=host, registry=self.registry)


def _gains(counters: Mapping[str, int], seen: dict[str, int]) -> Iterator[tuple[str, int]]:
    for name, value in counters.items():
        gained = value - seen.get(name, 0)
        if gained > 0:
            yield name, gained
        seen[name] = value
