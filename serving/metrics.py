"""Prometheus metrics of a serving process; names, labels and help texts are part of the product."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram, generate_latest

from stream.process_metrics import process_registry

LATENCY_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)
CLOSINGS = ("headers", "body", "idle", "unread", "invalid", "large", "room", "full")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Metrics of one process, on a registry of their own.

    Guarantees: emitted = delivered + spooled + dropped as soon as no impression is in the queue. `resent` counts
    spooled impressions that the broker acknowledged later, including those of an earlier process.
    """

    def __init__(self, scores_due_s: float | None = None) -> None:
        """Prepare the metrics.

        Args:
            scores_due_s: Seconds from the first byte of a request until which its scores are awaited. It is an edge of
                the buckets of the latency, so that a quantile is compared with it exactly.
        """
        self.registry = process_registry()
        self.requests = Counter(
            "shelfwise_serving_requests",
            "Answered rank requests, by arm and by reason of the fallback to the incoming order.",
            ("arm", "fallback"),
            registry=self.registry,
        )
        self.refused = Counter(
            "shelfwise_serving_refused", "Refused HTTP requests, by status code.", ("status",), registry=self.registry
        )
        self.shed = Counter(
            "shelfwise_serving_shed",
            "Rank requests that could not be scored in time: answered in incoming order at once (incoming_order), or"
            " refused with 503 before their body was decoded (refusal).",
            ("answer",),
            registry=self.registry,
        )
        for answer in ("incoming_order", "refusal"):
            self.shed.labels(answer)
        self.credentials_refused = Gauge(
            "shelfwise_serving_credentials_refused",
            "1 while changed tokens or keys cannot be read, and the former ones stay in use.",
            registry=self.registry,
        )
        self.connections = Gauge("shelfwise_serving_connections", "Open HTTP connections.", registry=self.registry)
        self.closed_connections = Counter(
            "shelfwise_serving_closed_connections",
            "HTTP connections that the service closed: no request in time (headers, body), no next one (idle), answer"
            " not read (unread), malformed (invalid), headers too large (large), closed for a new one (room), or all"
            " others busy (full).",
            ("reason",),
            registry=self.registry,
        )
        for reason in CLOSINGS:
            self.closed_connections.labels(reason)
        self.swapped = Counter(
            "shelfwise_serving_swapped", "Answers in which two items changed places.", ("arm",), registry=self.registry
        )
        self.latency = Histogram(
            "shelfwise_serving_latency_seconds",
            "Time from the first byte of a rank request to its written answer.",
            ("arm",),
            buckets=sorted({*LATENCY_BUCKETS, *(() if scores_due_s is None else (scores_due_s,))}),
            registry=self.registry,
        )
        self.version = Gauge(
            "shelfwise_serving_version", "Number of the active version.", ("lineage",), registry=self.registry
        )
        self.version_requests = Counter(
            "shelfwise_serving_version_requests",
            "Answered rank requests of the live version, the former one and the canary, by slice of the client (live ="
            " in none) and by reason of the fallback. The control slice counts under the version of its canary.",
            ("lineage", "version", "slice", "fallback"),
            registry=self.registry,
        )
        self.former_version = Gauge(
            "shelfwise_serving_former_version",
            "1 while a former version, or none, answers because the live one is refused.",
            ("lineage",),
            registry=self.registry,
        )
        self.scores_due = Gauge(
            "shelfwise_serving_scores_due_seconds",
            "Time from the first byte of a rank request until which its scores are awaited: 0.9 of the deadline.",
            registry=self.registry,
        )
        if scores_due_s is not None:
            self.scores_due.set(scores_due_s)
        self.map_age = Gauge(
            "shelfwise_serving_map_age_seconds",
            "Time since the database last told the experiment and the versions.",
            registry=self.registry,
        )
        self.version_changes = Counter(
            "shelfwise_serving_version_changes", "Versions activated.", ("lineage",), registry=self.registry
        )
        self.refused_versions = Counter(
            "shelfwise_serving_refused_versions",
            "Versions refused: damaged or with other golden scores (artifact), or bad outputs here (quarantined).",
            ("lineage", "reason"),
            registry=self.registry,
        )
        self.full_precision = Counter(
            "shelfwise_serving_full_precision_versions",
            "Versions loaded in full precision although serving.precision = int8, because their int8 graph is missing"
            " or its order of the golden sessions is beyond its limits here.",
            ("lineage",),
            registry=self.registry,
        )
        self.candidates = Counter(
            "shelfwise_serving_candidates",
            "Candidates that a version looked up in an id table, by whether they have a row of their own or share the"
            " cold row.",
            ("table", "row"),
            registry=self.registry,
        )
        self.impressions = Counter(
            "shelfwise_serving_impressions",
            "Impressions emitted, delivered to the broker, spooled to disk, dropped, and resent from the spool.",
            ("state",),
            registry=self.registry,
        )
        for state in ("emitted", "delivered", "spooled", "dropped", "resent"):
            self.impressions.labels(state)
        self.collected = Counter(
            "shelfwise_serving_collected",
            "Events and annotations posted over HTTP: records and dead letters on the broker, those refused with"
            " 429 (busy) or 503.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("record", "dead_letter", "busy", "unacknowledged"):
            self.collected.labels(outcome)
        self.spool_bytes = Gauge(
            "shelfwise_serving_spool_bytes", "Size of the spooled impressions.", registry=self.registry
        )
        self.spool_damaged = Counter(
            "shelfwise_serving_spool_damaged",
            "Spool files that could not be read and were set aside.",
            registry=self.registry,
        )
        self.replica_records = Counter(
            "shelfwise_serving_replica_records",
            "Records read into the catalogue and the profiles.",
            ("topic",),
            registry=self.registry,
        )
        self.replica_rejected = Counter(
            "shelfwise_serving_replica_rejected",
            "Records of the catalogue and the profiles that could not be decoded.",
            ("topic",),
            registry=self.registry,
        )
        self.evicted_profiles = Gauge(
            "shelfwise_serving_evicted_profiles",
            "Profiles removed since the start because serving.profiles_capacity was reached.",
            registry=self.registry,
        )

    def count_candidates(self, counted: Mapping[tuple[str, str], int]) -> None:
        """Add the candidates of a scored list, by id table and row."""
        for labels, count in counted.items():
            self.candidates.labels(*labels).inc(count)

    def text(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
