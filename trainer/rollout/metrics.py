"""Prometheus metrics of the controller: what serves in each lineage, how its gates stand, and planned ramps.

A version is a label only while it is live or canary.

Source: docs/rollout.md.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from abtest.ramp_plan import Ramp
from trainer.rollout.judgement import Evidence
from trainer.rollout.states import LineageView, Move, Verdict, Verdicts

_VALUES: Final[Mapping[str, float]] = {"pass": 1.0, "wait": 0.0, "fail": -1.0}


class RolloutMetrics:
    """Metrics of the controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_charge = Gauge(
            "shelfwise_rollout_in_charge", "1 while this controller holds the lease, else 0.", registry=registry
        )
        self.last_look = Gauge(
            "shelfwise_rollout_last_look_timestamp_seconds",
            "Time at which the controller last looked at every lineage.",
            registry=registry,
        )
        self.state = Gauge(
            "shelfwise_rollout_state",
            "1 for each version that is live or canary.",
            ("lineage", "version", "status"),
            registry=registry,
        )
        self.canary_share = Gauge(
            "shelfwise_rollout_canary_share",
            "Share of the lineage's clients that the canary serves.",
            ("lineage",),
            registry=registry,
        )
        self.canary_since = Gauge(
            "shelfwise_rollout_canary_since_timestamp_seconds",
            "Time at which the canary began; nothing without a canary.",
            ("lineage",),
            registry=registry,
        )
        self.live_published = Gauge(
            "shelfwise_rollout_live_published_timestamp_seconds",
            "Time at which the live version was published; nothing without one.",
            ("lineage",),
            registry=registry,
        )
        self.locked = Gauge(
            "shelfwise_rollout_locked",
            "1 while a lineage is pinned, frozen or killed.",
            ("lineage",),
            registry=registry,
        )
        self.gate = Gauge(
            "shelfwise_rollout_gate",
            "Verdict on the version on its way: 1 pass, 0 wait, -1 fail.",
            ("lineage", "gate"),
            registry=registry,
        )
        self.servers_behind = Gauge(
            "shelfwise_rollout_servers_behind",
            "Servers with a fresh report that do not have the live version.",
            ("lineage",),
            registry=registry,
        )
        self.moves = Counter(
            "shelfwise_rollout_moves", "Moves that this controller made.", ("lineage", "to_status"), registry=registry
        )
        self.ramp_share = Gauge(
            "shelfwise_rollout_ramp_share",
            "Share of all clients in an experiment whose ramp is planned.",
            ("experiment",),
            registry=registry,
        )
        self.ramp_frozen = Gauge(
            "shelfwise_rollout_ramp_frozen",
            "1 while a planned ramp is frozen by a check or by a lineage.",
            ("experiment",),
            registry=registry,
        )
        self._ramps: set[str] = set()
        self._serving: dict[str, set[tuple[str, str]]] = {}
        self._gates: dict[str, set[str]] = {}

    def observe(self, view: LineageView, evidence: Evidence | None = None, verdicts: Verdicts | None = None) -> None:
        """Show a lineage; without evidence, as in mode `direct`, gates and servers are left out."""
        name, canary, live = view.name, view.only("canary"), view.only("live")
        serving: set[tuple[str, str]] = {(str(v.number), v.status) for v in (canary, live) if v is not None}
        before = self._serving.get(name, set())
        for gone in before - serving:
            self.state.remove(name, *gone)
        for version, status in serving:
            self.state.labels(name, version, status).set(1)
        self._serving[name] = serving
        self.canary_share.labels(name).set(0.0 if canary is None else canary.canary_share or 0.0)
        if canary is not None and canary.canary_since is not None:
            self.canary_since.labels(name).set(canary.canary_since / 1_000)
        elif any(status == "canary" for _, status in before):
            self.canary_since.remove(name)
        if live is not None:
            self.live_published.labels(name).set(live.published_ts / 1_000)
        elif any(status == "live" for _, status in before):
            self.live_published.remove(name)
        self.locked.labels(name).set(view.lock is not None)
        # A counter that begins with its first move would show no increase.
        self.moves.labels(name, "rolled_back")
        on_its_way = canary or view.only("verified")
        own: Mapping[str, Verdict] = (verdicts or {}).get(on_its_way.number, {}) if on_its_way is not None else {}
        for gate in self._gates.get(name, set()) - set(own):
            self.gate.remove(name, gate)
        for gate, verdict in own.items():
            self.gate.labels(name, gate).set(_VALUES[verdict.outcome])
        self._gates[name] = set(own)
        loads = None if evidence is None or live is None else evidence.loads.get(live.number)
        self.servers_behind.labels(name).set(0 if loads is None else len(loads.pending) + len(loads.refused))

    def observe_ramps(self, ramps: Sequence[Ramp]) -> None:
        """Show the planned ramps, without those that have ended."""
        names = {ramp.experiment for ramp in ramps}
        for gone in self._ramps - names:
            self.ramp_share.remove(gone)
            self.ramp_frozen.remove(gone)
        self._ramps = names
        for ramp in ramps:
            self.ramp_share.labels(ramp.experiment).set(ramp.share)
            self.ramp_frozen.labels(ramp.experiment).set(bool(ramp.held))

    def count(self, lineage: str, move: Move) -> None:
        """Count a move."""
        self.moves.labels(lineage, move.to_status).inc()
