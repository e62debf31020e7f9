"""The drill of a demo: what the demo does as the user of the rollout, and what it tells while the others work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy.demo.drill import POLICY, DemoDrill
from deploy.demo.drill_story import sentence
from deploy.demo.summary import VersionTruth
from stream import db
from stream.errors import StoreError
from tests.harness.stores import new_store
from tests.trainer.rollout.world import GOOD, ServedLineage, address
from trainer.rollout import changes, judgement
from trainer.rollout.controller import Controller
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.policy import Policy, changed, of
from trainer.versions.registry import Rewind
from trainer.versions.tables import DRILL

LINEAGE = "armmt"


class World:
    """A demo's lineage whose trainer and servers do as they are told, with a controller."""

    def __init__(self, folder: Path) -> None:
        self.engine = db.create(new_store(folder / "test.db"))
        self.served = ServedLineage(self.engine, LINEAGE)
        self.served.registry.ensure_lineage(LINEAGE, "armmt", "tiny", "h" * 64)
        self.told: list[str] = []
        self.now_ms = 10_000
        self.drill = DemoDrill(self.engine, LINEAGE, self.told.append, lambda: self.now_ms)
        self.controller = Controller(
            self.engine,
            self.served.store,
            holder="one",
            now_ms=lambda: self.now_ms,
            metrics=RolloutMetrics(CollectorRegistry()),
        )
        self.lease()
        self.newest = self.parent = 0

    def lease(self) -> None:
        """Take the lease of the lineage, as a trainer does at its start."""
        self.term = self.served.registry.leases.acquire(LINEAGE, "trainer", self.now_ms, 10**15)

    def publish(self, **metrics: float) -> None:
        """Publish and verify the next version, whose parent is the one that training goes on from."""
        number, parent = self.newest + 1, address(self.parent) if self.parent else None
        registry = self.served.registry
        registry.publish(
            LINEAGE,
            number,
            address(number),
            parent=parent,
            term=self.term,
            metrics={**GOOD, **metrics},
            offsets={},
            published_ts=self.now_ms,
        )
        registry.advance(LINEAGE, number, self.term, to_status="verified", why="test", now_ms=self.now_ms)
        self.newest = self.parent = number
        numbers = range(1, number + 1)
        counts = {key: own for each in numbers for key, own in self.served.answers(each).items()}
        self.served.report(loaded=dict.fromkeys(numbers, "ok"), counts=counts)

    def publish_first(self) -> None:
        """Publish the first version, while no version is live to compare it with."""
        self.publish(**{judgement.SHADOW_LISTS: 0.0})

    def drill_version(self) -> int:
        """Return the number of the drill's version."""
        return of(self.served.store.view(LINEAGE).policy).drill_version

    def go_on(self) -> None:
        """Let the demo and the controller look until nothing moves."""
        for _ in range(4):
            self.drill.look()
            self.controller.step()
            self.now_ms += 2_000
        self.drill.look()

    def go_back(self, to: int) -> None:
        """Start the trainer again, which goes back as demanded."""
        self.lease()
        demand = self.served.registry.rewind(LINEAGE)
        assert demand == Rewind(to=to, mode="skip")
        skipped = {"from_ts": 0, "until_ts": 1_800_000}
        self.parent = to
        self.served.registry.record_rewound(LINEAGE, self.term, demand, {"skipped": skipped}, self.now_ms)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.engine.dispose()


def test_the_version_with_flipped_labels_is_refused_and_later_ones_go_live(world: World) -> None:
    world.drill.begin()
    world.publish_first()
    world.go_on()
    world.publish(**{judgement.SHADOW_LISTS: 0.0})
    world.go_on()
    assert world.drill_version() == 0, "lists that v1 ranked have not come back"
    world.publish()
    world.go_on()
    assert world.drill_version() == 5
    world.publish()
    world.go_on()
    world.publish(**{DRILL: 1.0, judgement.CORRELATION: -0.4})
    world.publish()
    world.go_on()
    world.go_back(3)
    world.publish()
    world.go_on()
    assert world.told == [
        "armmt: versions go live by gates",
        "armmt v1 is live: shuffled lists have said twice that it ranks better than the incoming order",
        "armmt: v5 will learn flipped labels; no version goes live before it is judged",
        "armmt v3 is a canary for 30% of its clients: gates 1 to 5 passed",
        "armmt v5: labels flipped on purpose",
        "armmt v5 refused by gate shadow: rank correlation -0.400, at least 0.5 is asked; "
        "the trainer has to go back to v3, v4, v6 quarantined",
        "armmt v3 is live: gates 1 to 7 passed",
        "armmt: the trainer is back at v3 and leaves 30 minutes of the log out",
        "armmt v7 is a canary for 30% of its clients: gates 1 to 5 passed",
        "armmt v7 is live: gates 1 to 7 passed",
    ]
    truths = [truth(4, 200), truth(7, 90)]
    found = world.drill.outcome(truths)
    assert (found.version, found.outcome, found.trainer_back_at, found.live_again) == (5, "rejected", 3, 7)
    assert found.steps == world.told
    assert sentence(found) == (
        "armmt v5 with flipped labels was refused by gate shadow: rank correlation -0.400, at least 0.5 is asked; "
        "it ranked no lists; the trainer went back to v3; v7 went live"
    )


def test_a_canary_that_goes_live_late_is_no_recovery(world: World) -> None:
    """The trainer is back at a canary, which goes live before the recovered learner has published."""
    world.drill.begin()
    world.publish_first()
    world.go_on()
    world.publish()
    world.go_on()
    world.publish()
    world.publish(**{DRILL: 1.0, judgement.CORRELATION: -0.4})
    world.controller.step()
    world.controller.step()
    assert world.served.status_of(4) == "rejected"
    world.go_back(2)
    world.go_on()
    found = world.drill.outcome([])
    assert (world.served.status_of(2), found.trainer_back_at, found.live_again) == ("live", 2, None)
    assert sentence(found).endswith("the trainer went back to v2; no later version went live before the end")


def test_a_drill_that_came_too_late_for_its_version_is_made_up_for(world: World) -> None:
    world.drill.begin()
    world.publish_first()
    world.go_on()
    world.publish()
    world.go_on()
    assert world.drill_version() == 4
    world.publish()
    world.publish()
    world.go_on()
    assert world.drill_version() == 6


def test_a_canary_with_flipped_labels_is_rolled_back_and_the_demo_releases_the_lineage(world: World) -> None:
    world.drill.begin()
    world.publish_first()
    world.go_on()
    world.publish(**{DRILL: 1.0})
    world.drill.look()
    world.controller.step()
    assert world.served.status_of(2) == "canary"
    world.served.report(loaded={1: "ok", 2: "ok"}, counts=world.served.answers(2, bad=900))
    world.go_on()
    assert world.told[-2].startswith("armmt v2 rolled back by gate system: bad outputs: 90.00%")
    assert world.told[-1] == "armmt: versions may go live again"
    found = world.drill.outcome([truth(2, 1)])
    assert (found.outcome, found.trainer_back_at, found.live_again, found.lists) == ("rolled_back", None, None, 1)
    assert sentence(found).endswith("; it ranked 1 list")


def test_a_version_that_no_gate_decides_on_is_said_to_be_undecided(world: World) -> None:
    world.drill.begin()
    world.publish_first()
    world.go_on()
    assert sentence(world.drill.outcome([])) == (
        "armmt published no version with flipped labels: its first versions came too late"
    )
    world.publish(**{DRILL: 1.0, judgement.SHADOW_LISTS: 1.0})
    world.go_on()
    assert sentence(world.drill.outcome([])) == (
        "armmt v2 with flipped labels was neither refused nor rolled back before the end; it ranked no lists"
    )


def test_a_database_that_does_not_answer_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.drill.begin()
    with monkeypatch.context() as patched:
        patched.setattr("trainer.rollout.store.RolloutStore.view", _refuse)
        world.drill.look()
    assert world.told == []
    world.drill.look()
    assert world.told == ["armmt: versions go live by gates"]


def test_a_version_that_has_moved_meanwhile_is_left_to_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.drill.begin()
    world.publish_first()
    seen = world.served.store.view(LINEAGE)
    world.served.command("promote", lambda view: changes.promote(view, 1, "by hand"))
    with monkeypatch.context() as patched:
        patched.setattr("trainer.rollout.store.RolloutStore.view", lambda *_: seen)
        world.drill.look()
    world.drill.look()
    assert world.told == ["armmt: versions go live by gates", "armmt v1 is live: by hand"]


def test_the_limits_of_the_gate_that_sees_flipped_labels_are_the_default() -> None:
    found, default = of(changed(None, POLICY)), Policy()
    for name in ("shadow_versions", "shadow_sigma", "least_correlation", "min_correlation", "max_churn"):
        assert getattr(found, name) == getattr(default, name)


def _refuse(*_: object) -> None:
    raise StoreError("the database does not answer")


def truth(version: int, lists: int) -> VersionTruth:
    return VersionTruth(
        lineage=LINEAGE, version=version, lists=lists, first_ts=1, last_ts=2, gain=0.1, standard_error=0.1
    )


def test_a_flipped_canary_is_taken_back_by_the_second_version_that_was_trained_from_it(world: World) -> None:
    world.drill.begin()
    world.publish_first()
    world.go_on()
    world.publish(**{DRILL: 1.0})
    world.controller.step()
    assert world.served.status_of(2) == "canary"
    world.publish(**{judgement.CORRELATION: -0.4})
    world.controller.step()
    world.go_back(2)
    world.publish(**{judgement.CORRELATION: -0.4})
    world.controller.step()
    statuses = [world.served.status_of(number) for number in (1, 2, 3, 4)]
    assert statuses == ["live", "quarantined", "rejected", "rejected"]
    world.go_back(1)
    found = world.drill.outcome([truth(2, 12)])
    assert (found.version, found.outcome, found.trainer_back_at) == (2, "quarantined", 1)
    assert sentence(found) == (
        "armmt v2 with flipped labels became a canary and was taken back with what was trained from it, by gate "
        "shadow: rank correlation -0.400, at least 0.5 is asked; it ranked 12 lists; the trainer went back to v1; "
        "no later version went live before the end"
    )
