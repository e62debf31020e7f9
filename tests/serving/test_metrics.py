from pathlib import Path

from serving.metrics import Metrics
from serving.settings import ServingSettings
from tests.serving.world import World

NAMES = {
    "shelfwise_serving_requests": ("counter", ("arm", "fallback")),
    "shelfwise_serving_refused": ("counter", ("status",)),
    "shelfwise_serving_shed": ("counter", ("answer",)),
    "shelfwise_serving_credentials_refused": ("gauge", ()),
    "shelfwise_serving_connections": ("gauge", ()),
    "shelfwise_serving_closed_connections": ("counter", ("reason",)),
    "shelfwise_serving_latency_seconds": ("histogram", ("arm",)),
    "shelfwise_serving_former_version": ("gauge", ("lineage",)),
    "shelfwise_serving_scores_due_seconds": ("gauge", ()),
    "shelfwise_serving_map_age_seconds": ("gauge", ()),
    "shelfwise_serving_version": ("gauge", ("lineage",)),
    "shelfwise_serving_version_requests": ("counter", ("lineage", "version", "slice", "fallback")),
    "shelfwise_serving_version_changes": ("counter", ("lineage",)),
    "shelfwise_serving_refused_versions": ("counter", ("lineage", "reason")),
    "shelfwise_serving_full_precision_versions": ("counter", ("lineage",)),
    "shelfwise_serving_candidates": ("counter", ("table", "row")),
    "shelfwise_serving_swapped": ("counter", ("arm",)),
    "shelfwise_serving_impressions": ("counter", ("state",)),
    "shelfwise_serving_collected": ("counter", ("outcome",)),
    "shelfwise_serving_spool_bytes": ("gauge", ()),
    "shelfwise_serving_spool_damaged": ("counter", ()),
    "shelfwise_serving_replica_records": ("counter", ("topic",)),
    "shelfwise_serving_replica_rejected": ("counter", ("topic",)),
    "shelfwise_serving_evicted_profiles": ("gauge", ()),
}


def test_the_names_are_part_of_the_product() -> None:
    found = {family.name: family.type for family in Metrics().registry.collect() if "shelfwise_serving" in family.name}
    assert found == {name: kind for name, (kind, _) in NAMES.items()}


def test_the_labels_are_part_of_the_product() -> None:
    metrics = Metrics()
    kept = [value for value in vars(metrics).values() if hasattr(value, "_labelnames")]
    assert {one._name: one._labelnames for one in kept} == {name: labels for name, (_, labels) in NAMES.items()}


def test_latencies_are_compared_with_the_time_of_the_scores_exactly(tmp_path: Path) -> None:
    for deadline_ms, due in ((30.0, "0.027"), (500.0, "0.45")):
        registry = World(tmp_path).service(ServingSettings(deadline_ms=deadline_ms)).metrics.registry
        assert str(registry.get_sample_value("shelfwise_serving_scores_due_seconds")) == due
    metrics = Metrics(0.027)
    for late_s in (0.0269, 0.027, 0.0271):
        metrics.latency.labels("none").observe(late_s)
    buckets = {
        le: metrics.registry.get_sample_value("shelfwise_serving_latency_seconds_bucket", {"arm": "none", "le": le})
        for le in ("0.02", "0.027", "0.03")
    }
    assert buckets == {"0.02": 0, "0.027": 2, "0.03": 3}


def test_process_metrics_and_the_build_are_there_and_times_of_creation_are_not() -> None:
    text = Metrics().text().decode()
    assert "process_cpu_seconds_total" in text
    assert "shelfwise_build_info{" in text
    assert "_created" not in text
