"""Planned ramps on SQLite and PostgreSQL: steps by the clock and the checks, freezes with their causes."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from abtest import buckets
from abtest.experiment import Arm
from abtest.plan import Plan
from abtest.ramp import write_health
from abtest.ramp_plan import Ramp, RampPlan
from abtest.ramp_store import RampStore
from abtest.results import Check
from abtest.store import ExperimentStore
from abtest.tables import epochs
from stream import db
from stream.errors import FencedError
from tests.harness.generated_facts import append, fill, generate
from tests.trainer.rollout.world import GatedLineage
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.controller import LEASE_TTL_MS, Controller
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.ramps import status
from trainer.rollout.states import LineageView
from trainer.rollout.status import status as lineage_status
from trainer.versions.leases import CONTROLLER
from trainer.versions.registry import Registry

HOUR_MS = 3_600_000
ARMS = (
    Arm(name="control", policy="incoming_order", is_control=True),
    Arm(name="treatment", lineage="prm"),
)
SOUND = Check(check_name="sample_ratio", stat=1.0, p=0.5, status="ok", detail="as planned")
SKEWED = Check(check_name="sample_ratio", stat=40.0, p=1e-9, status="blocked", detail="control 900, treatment 700")


class World:
    """A lineage with an experiment whose ramp is planned, its controller, and a clock."""

    def __init__(self, engine: Engine) -> None:
        self.lineage = GatedLineage(engine)
        self.engine, self.now_ms = engine, 10_000
        self.registry = CollectorRegistry()
        self.ramps = RampStore(engine)
        self.controller = Controller(
            engine,
            self.lineage.store,
            holder="one",
            now_ms=lambda: self.now_ms,
            metrics=RolloutMetrics(self.registry),
        )

    def plan(self, steps: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)) -> None:
        """Start an experiment with 1 % of the clients, and plan its ramp with a step each hour."""
        ExperimentStore(self.engine).create(key="first", arms=ARMS, now_ts=self.now_ms, share=0.01)
        self.ramps.plan("first", RampPlan(steps=steps, every_ms=HOUR_MS), now_ts=self.now_ms, actor="ada")

    def ramp(self) -> Ramp:
        """Return the planned ramp."""
        (found,) = self.ramps.ramps()
        return found

    def look(self, *checks: Check, after_ms: int = 0) -> None:
        """Let time pass, the watcher find these checks up to then, and the controller look."""
        self.now_ms += after_ms
        self.ramps.write_health(self.ramp(), checks, self.now_ms)
        self.controller.step()

    def shares(self) -> list[float]:
        """Return the share of each epoch."""
        return [epoch.coverage for epoch in ExperimentStore(self.engine).epochs("first")]

    def command(self, name: str, decide: Callable[[LineageView], Change]) -> None:
        """Execute a command on the lineage."""
        self.lineage.command(name, decide)


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


def test_a_sound_ramp_takes_each_step_in_its_time(world: World) -> None:
    world.plan()
    world.controller.step()
    for _ in range(8):
        if world.ramps.ramps():
            world.look(SOUND, after_ms=HOUR_MS // 2)
    assert world.shares() == [0.01, 0.05, 0.1, 0.25, 0.5]
    starts = [epoch.start_ts for epoch in ExperimentStore(world.engine).epochs("first")]
    assert set(np.diff(starts)) == {HOUR_MS}
    steps = [event for event in world.ramps.events("first") if event.event == "step"]
    assert {event.actor for event in steps} == {"controller, term 1"}
    assert steps[0].evidence["live"] == {"prm": 1}
    assert world.ramps.events("first")[-1].event == "ended"


def test_without_health_or_data_nothing_grows(world: World) -> None:
    """The watcher is away, the sink has stopped, or too few clients have come: time alone takes no step."""
    world.plan()
    for _ in range(3):
        world.now_ms += 10 * HOUR_MS
        assert world.controller.step() == 0
    world.ramps.write_health(world.ramp(), (SOUND,), 10_000 + HOUR_MS - 1)
    assert world.controller.step() == 0
    few = Check(check_name="sample_ratio", stat=None, p=None, status="undefined", detail="too few")
    world.look(few)
    (found,) = status(world.engine, world.lineage.store, world.now_ms)
    assert (found.next, found.held, found.share) == ("waits for sample_ratio: too few", {}, 0.01)
    world.look(SOUND)
    assert world.shares() == [0.01, 0.05]


def test_a_blocked_check_freezes_at_the_next_look_and_its_end_resumes(world: World) -> None:
    world.plan()
    world.look(SKEWED, after_ms=60_000)
    (found,) = status(world.engine, world.lineage.store, world.now_ms)
    assert (found.held, found.held_since) == ({"sample_ratio": SKEWED.detail}, world.now_ms)
    frozen = {"experiment": "first"}
    world.look(SKEWED, after_ms=2 * HOUR_MS)
    assert world.registry.get_sample_value("shelfwise_rollout_ramp_frozen", frozen) == 1
    assert world.shares() == [0.01]
    world.look(SOUND, after_ms=60_000)
    world.controller.step()
    assert world.shares() == [0.01, 0.05]
    assert [event.event for event in world.ramps.events("first")] == ["planned", "frozen", "resumed", "step"]
    assert world.registry.get_sample_value("shelfwise_rollout_ramp_frozen", frozen) == 0
    assert world.registry.get_sample_value("shelfwise_rollout_ramp_share", frozen) == 0.05


def test_the_status_of_a_lineage_shows_the_ramps_that_it_takes_part_in(world: World) -> None:
    world.plan()
    Registry(world.engine).ensure_lineage("other", "prm", "tiny", "h" * 64)
    shown = {name: lineage_status(world.lineage.store, world.engine, name, 1).ramps for name in ("prm", "other")}
    assert shown["other"] == ()
    (found,) = shown["prm"]
    assert (found.champion, found.next_share, found.due_ts) == ("incoming_order", 0.05, 10_000 + HOUR_MS)
    assert (found.left_out, found.next) == (0.5, "the present share has not lasted long enough")


@pytest.mark.parametrize(
    ("name", "decide", "named"),
    [
        ("kill", lambda view: changes.kill(view, "fire"), "killed: fire"),
        ("freeze", lambda view: changes.freeze(view, "holiday"), "frozen: holiday"),
    ],
)
def test_a_lineage_out_of_order_freezes_the_ramp(
    world: World, name: str, decide: Callable[[LineageView], Change], named: str
) -> None:
    world.plan()
    world.command(name, decide)
    world.look(SOUND, after_ms=2 * HOUR_MS)
    assert world.ramp().held == {"lineage prm": named}
    world.command("resume", lambda view: changes.resume(view, "over"))
    world.controller.step()
    world.controller.step()
    assert world.shares() == [0.01, 0.05]


def test_a_lineage_without_a_live_version_freezes_the_ramp_and_a_pin_does_not(world: World) -> None:
    arms = (*ARMS, Arm(name="other", lineage="armmt"))
    ExperimentStore(world.engine).create(key="first", arms=arms, now_ts=world.now_ms, share=0.01)
    world.ramps.plan("first", RampPlan(steps=(0.5,), every_ms=HOUR_MS), now_ts=world.now_ms, actor="ada")
    world.command("pin", lambda view: changes.pin(view, None, "certified"))
    world.look(SOUND, after_ms=2 * HOUR_MS)
    assert world.ramp().held == {"lineage armmt": "no live version"}


def test_a_controller_that_lost_its_lease_takes_no_step(world: World) -> None:
    world.plan()
    world.controller.step()
    world.now_ms += 2 * HOUR_MS
    world.ramps.write_health(world.ramp(), (SOUND,), world.now_ms)
    world.lineage.registry.leases.acquire(CONTROLLER, "two", world.now_ms + LEASE_TTL_MS, 1)
    with pytest.raises(FencedError):
        world.controller.step()
    assert world.shares() == [0.01]


@pytest.mark.slow
def test_a_planted_sample_ratio_freezes_the_ramp_and_no_client_changes_arm(world: World) -> None:
    """R14, with facts: the second half of the control's exposures is lost."""
    sessions, _ = generate(seed=15, num_clients=400)
    half = len(sessions) // 2
    fill(world.engine, sessions[:half], plan=Plan(min_buyers=20), arms=ARMS)
    world.ramps.set_share("first", 0.01, now_ts=1, reason="small", shrink=True)
    world.ramps.plan("first", RampPlan(steps=(0.25, 0.5), every_ms=1), now_ts=2, actor="ada")
    append(world.engine, [s for s in sessions[half:] if s.assignment[0].arm == "treatment"], matured_ts=1_000_000)
    write_health(world.engine)
    world.controller.step()
    (found,) = status(world.engine, world.lineage.store, world.now_ms)
    assert set(found.held) == {f"sample_ratio{name}" for name in ("", "_assigned", "_analysed")}
    assert found.next.startswith("frozen by sample_ratio: exposed clients: control ")
    assert world.shares() == [1.0, 0.01]
    with db.read(world.engine) as connection:
        tables = [buckets.from_bytes(raw) for raw in connection.execute(select(epochs.c.buckets)).scalars()]
    assert all(buckets.moved(before, after) == 0 for before, after in pairwise(tables))
