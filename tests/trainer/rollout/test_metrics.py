"""The metrics of the controller follow what serves; versions that serve no more are no labels."""

from dataclasses import replace

from prometheus_client import CollectorRegistry

from abtest.experiment import Arm
from abtest.ramp_plan import Ramp, RampPlan
from tests.trainer.rollout.views import NOW_MS, all_gates, lineage
from trainer.rollout.gates import Loads
from trainer.rollout.judgement import Evidence
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.states import Move


class Shown:
    """Metrics with a reader for their samples."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = RolloutMetrics(self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"shelfwise_rollout_{name}", {"lineage": "prm"} | labels)


def test_versions_are_labels_while_they_serve() -> None:
    shown = Shown()
    shown.metrics.observe(lineage("superseded", "live", "canary"))
    assert shown.value("state", version="2", status="live") == 1
    assert shown.value("state", version="3", status="canary") == 1
    assert shown.value("canary_share") == 0.01
    assert shown.value("canary_since_timestamp_seconds") == NOW_MS / 1_000
    assert shown.value("moves_total", to_status="rolled_back") == 0
    shown.metrics.observe(lineage("superseded", "superseded", "live", frozen="why"))
    assert shown.value("state", version="2", status="live") is None
    assert shown.value("state", version="3", status="canary") is None
    assert shown.value("state", version="3", status="live") == 1
    assert (shown.value("canary_share"), shown.value("locked")) == (0, 1)
    assert shown.value("canary_since_timestamp_seconds") is None


def test_gates_of_the_version_on_its_way() -> None:
    shown = Shown()
    view = lineage("live", "verified")
    evidence = Evidence(loads={1: Loads(ok=("a",), pending=("b",), refused={"c": "truncated"})})
    verdicts = {2: all_gates(shadow="fail", system="wait")}
    shown.metrics.observe(view, evidence, verdicts)
    assert [shown.value("gate", gate=gate) for gate in ("golden", "shadow", "system")] == [1, -1, 0]
    assert shown.value("servers_behind") == 2
    shown.metrics.observe(replace(view, versions=view.versions[:1]), Evidence(), {})
    assert shown.value("gate", gate="golden") is None
    assert shown.value("servers_behind") == 0


def test_the_age_of_the_live_version_is_shown_while_there_is_one() -> None:
    shown, view = Shown(), lineage("superseded", "live")
    shown.metrics.observe(view)
    published = view.versions[1].published_ts
    assert shown.value("live_published_timestamp_seconds") == published / 1_000
    shown.metrics.observe(replace(view, versions=view.versions[:1]))
    assert shown.value("live_published_timestamp_seconds") is None


def test_a_ramp_is_shown_until_it_ends() -> None:
    shown = CollectorRegistry()
    metrics = RolloutMetrics(shown)
    arms = (Arm(name="control", policy="incoming_order", is_control=True), Arm(name="treatment", lineage="prm"))
    ramp = Ramp(
        experiment="first",
        plan=RampPlan(every_ms=1),
        row_version=1,
        arms=arms,
        share=0.05,
        epoch=1,
        start_ts=0,
        held={"guardrail": "ctr"},
    )

    def values() -> list[float | None]:
        names = ("shelfwise_rollout_ramp_share", "shelfwise_rollout_ramp_frozen")
        return [shown.get_sample_value(name, {"experiment": "first"}) for name in names]

    metrics.observe_ramps([ramp])
    assert values() == [0.05, 1]
    metrics.observe_ramps([])
    assert values() == [None, None]


def test_moves_are_counted() -> None:
    shown = Shown()
    for _ in range(2):
        shown.metrics.count("prm", Move(version=2, from_status="canary", to_status="rolled_back", why=""))
    assert shown.value("moves_total", to_status="rolled_back") == 2
