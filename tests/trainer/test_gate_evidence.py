"""A gated lineage with a real trainer: its versions move on the numbers that the trainer publishes with them."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from stream import db
from stream.errors import StoreError
from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session, decode
from tests.harness.stores import new_store
from tests.trainer.harness import LINEAGE, SETTINGS, Crash, feed, make_loop
from tests.trainer.rollout.world import ServedLineage
from tests.trainer.shoppers import Shop
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.gate_evidence import GateEvidence
from trainer.learning.learner import Learner
from trainer.loop import Loop
from trainer.models import MODELS, architecture_hash
from trainer.rollout import changes, judgement
from trainer.rollout.controller import Controller
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.slices import CANARY, CONTROL
from trainer.versions import artifact
from trainer.versions.publisher import Gating

EVERY = 100
GATED = replace(SETTINGS, publish_s=EVERY, gate_lists=300, gate_sessions=200)
LEARNING = replace(LINEAGE, learning=replace(LINEAGE.learning, checkpoint_s=EVERY // 2, batch=8, lr=0.01, rows_lr=0.1))
POLICY = {
    "mode": "gated",
    "canary_s": "1",
    "canary_queries": "100",
    "business_sessions": "100",
    "watch_s": "0",
    # Few lists and shoppers, whose two kinds of items have no order within a kind.
    "prequential_lists": "60",
    "shadow_lists": "60",
    "max_loss": "0.1",
    "min_correlation": "0.5",
    "max_churn": "0.5",
}
Weights = Mapping[str, torch.Tensor]


class World:
    """A trainer, the shop that it learns from, and a controller."""

    def __init__(self, folder: Path, policy: Mapping[str, str] = POLICY) -> None:
        self.folder = folder
        self.engine = db.create(new_store(folder / "test.db"))
        self.served = ServedLineage(self.engine, LINEAGE.name)
        hashed = architecture_hash(LINEAGE.model, LINEAGE.config)
        self.served.registry.ensure_lineage(LINEAGE.name, LINEAGE.model, LINEAGE.profile, hashed)
        self.served.command("policy", lambda view: changes.set_policy(view, policy, "test"))
        self.shop = Shop(LINEAGE.name)
        self.now_ms = 10_000
        metrics = RolloutMetrics(CollectorRegistry())
        self.controller = Controller(
            self.engine, self.served.store, holder="one", now_ms=lambda: self.now_ms, metrics=metrics
        )
        self.loop = self.trainer()
        self.loop.start()

    def trainer(self, failpoint: Callable[[str], None] = lambda _: None) -> Loop:
        return make_loop(self.folder, self.engine, settings=GATED, partitions=1, lineage=LEARNING, failpoint=failpoint)

    def publish(self, version: int | None) -> int:
        """Let shoppers search until the trainer publishes, with lists by a version; return the new number."""
        self.loop.push(self.shop.serve(EVERY, None if version is None else self.load(version)))
        return self.served.registry.versions(LINEAGE.name)[-1].version

    def load(self, version: int) -> artifact.LoadedVersion:
        return artifact.load(self.folder / "artifacts", self.served.version(version).artifact)

    def roll_out(self, number: int, live: int | None) -> list[str]:
        """Let servers and shoppers use a version, and return its statuses, one for each look of the controller."""
        self.served.report(loaded=dict.fromkeys(range(1, number + 1), "ok"), counts=self.served.answers(number))
        found = [self.served.status_of(number)]
        for _ in range(3):
            self.controller.step()
            found.append(self.served.status_of(number))
            if found[-2:] == ["verified", "canary"]:
                self.served.search(CANARY, number, at_ts=self.now_ms)
                self.served.search(CONTROL, live, at_ts=self.now_ms)
            self.now_ms += 1_000
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.engine.dispose()


def zeroed(world: World) -> Weights:
    return {name: torch.zeros_like(weight) for name, weight in world.loop.learner.params.items()}


def random(world: World) -> Weights:
    return MODELS[LINEAGE.model].init(LINEAGE.config, 99)


def inverted(world: World) -> Weights:
    params = world.loop.learner.params
    return {name: -weight if name.startswith("logit.") else weight for name, weight in params.items()}


def flipped(world: World) -> Weights:
    """Return the weights of a learner with a fault: what shoppers leave it takes for what they want."""
    # The catalogue has a lock, which cannot be copied.
    catalogue = world.loop.catalogue
    learner = deepcopy(world.loop.learner, {id(catalogue): catalogue})
    learner.judged = None
    # Sessions that the learner has not seen.
    other_shop = Shop(LINEAGE.name, seed=2, first_query=10_000)
    decoded = [decode(record.value) for record in other_shop.serve(3 * EVERY, flipped=True)]
    sessions = [one for one in decoded if isinstance(one, Session)]
    placed = tuple(OrderedSession(Key(one.watermark_ts, 0, number), one) for number, one in enumerate(sessions))
    learner.learn(SessionBatch(placed, (False,) * len(placed)), world.loop.catalogue)
    return learner.params


def publish_with(world: World, weights: Weights, live: int) -> int:
    """Let the trainer publish these weights, and learn on from its own."""
    learner = world.loop.learner
    own = {name: weight.detach().clone() for name, weight in learner.params.items()}
    bad = {name: weight.detach().clone() for name, weight in weights.items()}
    as_before = learner.at_boundary

    def at_boundary(boundary_ts: int, previous_ts: int | None) -> None:
        as_before(boundary_ts, previous_ts)
        if boundary_ts % (1_000 * EVERY) == 0:
            put(learner, bad)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learner, "at_boundary", at_boundary)
        number = world.publish(live)
    put(learner, own)
    return number


def put(learner: Learner, weights: Weights) -> None:
    with torch.no_grad():
        for name, weight in learner.params.items():
            weight.copy_(weights[name])


@pytest.mark.no_cover
def test_versions_go_live_by_the_numbers_of_their_trainer_and_bad_ones_are_refused(world: World) -> None:
    # A boundary is passed by the sessions behind it.
    world.loop.push(world.shop.serve(5))
    assert world.publish(None) == 1
    assert world.roll_out(1, None) == ["verified", "canary", "live", "live"]
    first = world.served.version(1).metrics
    assert first[judgement.LEAD] > 0
    assert judgement.LOSS not in first, "no version was live"
    for damage in (zeroed, random, inverted, flipped):
        number = publish_with(world, damage(world), 1)
        assert world.roll_out(number, 1)[1:] == ["rejected"] * 3, damage.__name__
        event = next(each for each in reversed(world.served.store.history(LINEAGE.name)) if each.version == number)
        assert (event.to_status, event.evidence["prequential"]["outcome"]) == ("rejected", "fail")
        assert event.evidence["prequential"]["numbers"]["lists"] >= 60
        assert event.evidence["shadow"]["numbers"]["correlation"] < 0.5
    number = world.publish(1)
    assert world.roll_out(number, 1) == ["verified", "canary", "live", "live"]
    assert world.served.status_of(1) == "superseded"
    own = world.served.version(number).metrics
    assert own[judgement.SHADOW_LISTS] >= 60
    assert own[judgement.CORRELATION] > 0.5


@pytest.mark.no_cover
def test_labels_that_are_wrong_in_the_log_are_seen_by_the_change_of_order_alone(world: World) -> None:
    world.loop.push(world.shop.serve(5))
    world.publish(None)
    world.roll_out(1, None)
    world.loop.push(world.shop.serve(EVERY, world.load(1), flipped=True))
    assert world.roll_out(2, 1)[-1] == "rejected"
    event = world.served.store.history(LINEAGE.name)[-1]
    assert event.evidence["shadow"]["outcome"] == "fail"
    # The judged lists have the wrong labels too, by which the live version is the worse one.
    assert event.evidence["prequential"]["numbers"]["loss_high"] < 0


class Stubborn:
    """A publisher that answers as it is told to."""

    def __init__(self) -> None:
        self.lineage = LINEAGE.name
        self.answer: tuple[bool, int | None] | None = (False, None)

    def gating(self) -> Gating:
        if self.answer is None:
            raise StoreError("the database does not answer")
        return Gating(*self.answer)


def test_lists_are_judged_while_versions_go_live_by_gates() -> None:
    publisher: Any = Stubborn()
    learner = Learner(LINEAGE.model, LINEAGE.config, LINEAGE.learning, device=torch.device("cpu"))
    evidence = GateEvidence(publisher, learner, GATED)
    evidence.begin()

    def after(answer: tuple[bool, int | None] | None) -> str:
        """Return what is judged after a publication, which reads the mode and the live version."""
        publisher.answer = answer
        assert evidence.numbers(Catalogue()) == {}
        judged = learner.judged
        return "nothing" if judged is None else "shuffled lists too" if judged.takes_shuffled else "ranked lists"

    assert after((False, None)) == "nothing"
    assert after((True, None)) == "shuffled lists too"
    assert after((True, 4)) == "ranked lists"
    assert after(None) == "ranked lists", "what was known holds while the database does not answer"
    assert after((False, 4)) == "nothing"


@pytest.mark.no_cover
@pytest.mark.parametrize("point", ["artifact.after_rename", "checkpoint.after_rename"])
def test_a_resumed_trainer_publishes_the_same_numbers(tmp_path: Path, point: str) -> None:
    found = []
    for name, visit in (("whole", 0), ("broken", 2)):
        (tmp_path / name).mkdir()
        own = World(tmp_path / name)
        log = own.shop.serve(2 * EVERY + 5)
        visits = 0

        def failpoint(reached: str, visit: int = visit) -> None:
            nonlocal visits
            visits += reached == point
            if reached == point and visits == visit:
                raise Crash(point)

        own.loop = own.trainer(failpoint)
        try:
            feed(own.loop, log)
        except Crash:
            own.loop = own.trainer()
            feed(own.loop, log)
        published = own.served.registry.versions(LINEAGE.name)
        found.append([(version.version, version.metrics) for version in published])
        own.engine.dispose()
    assert found[0] == found[1]
    assert [number for number, _ in found[0]] == [1, 2]
    assert judgement.LISTS in found[0][-1][1]


def test_a_lineage_without_gates_keeps_no_judged_lists_and_has_its_norm(tmp_path: Path) -> None:
    world = World(tmp_path, {"mode": "direct"})
    world.loop.push(world.shop.serve(2 * EVERY + 5))
    versions = world.served.registry.versions(LINEAGE.name)
    assert [version.status for version in versions] == ["superseded", "live"]
    named = [{name for name in version.metrics if name.startswith("gate_")} for version in versions]
    assert named == [set(), {judgement.NORM_CHANGE}]
    assert world.loop.learner.judged is None
    assert not list((tmp_path / "checkpoints").rglob("judged*"))
    world.engine.dispose()
