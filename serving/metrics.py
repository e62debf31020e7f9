"""Prometheus metrics of one serving process; the names are part of the product and pinned by a test."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of a process, on a registry of their own.

    Impressions obey emitted = delivered + spooled + dropped once none is on its way; `resent` counts the spooled ones
    that reached the broker later, those of a former process included.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "shelfwise_serving_requests",
            "Answered rank requests; fallback is the reason for incoming order, or none.",
            ("arm", "fallback"),
            registry=self.registry,
        )
        self.refused = Counter(
            "shelfwise_serving_refused", "Requests refused, by status code.", ("status",), registry=self.registry
        )
        self.latency = Histogram(
            "shelfwise_serving_latency_seconds",
            "From the arrival of a request until its answer is made.",
            ("arm",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.version = Gauge(
            "shelfwise_serving_version", "Number of the version in use.", ("lineage",), registry=self.registry
        )
        self.swaps = Counter("shelfwise_serving_swaps", "Versions put into use.", ("lineage",), registry=self.registry)
        self.refused_versions = Counter(
            "shelfwise_serving_refused_versions",
            "Versions not put into use: damaged, golden scores missed, or quarantined here.",
            ("lineage", "reason"),
            registry=self.registry,
        )
        self.impressions = Counter(
            "shelfwise_serving_impressions",
            "Impressions by fate.",
            ("state",),
            registry=self.registry,
        )
        for state in ("emitted", "delivered", "spooled", "dropped", "resent"):
            self.impressions.labels(state)
        self.collected = Counter(
            "shelfwise_serving_collected",
            "Collected events by fate: records and dead letters on the broker, payloads refused with 429 or 503.",
            ("fate",),
            registry=self.registry,
        )
        for fate in ("record", "letter", "busy", "unacknowledged"):
            self.collected.labels(fate)
        self.spool_bytes = Gauge("shelfwise_serving_spool_bytes", "Impressions on disk.", registry=self.registry)
        self.replica_records = Counter(
            "shelfwise_serving_replica_records", "Records applied to a replica.", ("topic",), registry=self.registry
        )

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
