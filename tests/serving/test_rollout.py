"""Serving follows the commands of operators and the moves of the controller in one poll, with the real store (R5)."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sqlalchemy import make_url

from abtest.experiment import Arm
from abtest.ramp_store import RampStore
from serving import run
from serving.ranking import scorer
from serving.ranking.reports import REPORT_S
from serving.ranking.service import Service
from serving.ranking.versions import NO_VERSION, WITHDRAWN
from serving.run import DATABASE_TIMEOUT_S
from serving.schemas import RankAnswer
from serving.settings import ServingSettings
from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import StoreError
from tests.harness.postgres import new_database
from tests.harness.proxy import Proxy
from tests.serving.live import wait_until
from tests.serving.world import START_MS, World, request
from trainer.rollout import changes, evidence, policy
from trainer.rollout.changes import Change
from trainer.rollout.gates import Loads
from trainer.rollout.judgement import Evidence
from trainer.rollout.served_map import LineageMap, MapReader
from trainer.rollout.slices import CANARY, CONTROL, LIVE, salt, slice_of
from trainer.rollout.states import LineageView, Move
from trainer.rollout.store import RolloutStore
from trainer.versions.leases import CONTROLLER

BACK_WITHIN_S = 3.0
"""Seconds in which servers are back on the former version after a rollback is decided, at the default settings."""
SETTINGS = ServingSettings(default_lineage="base", deadline_ms=60_000.0, poll_s=3_600.0)
CLIENTS = [f"c-{k}" for k in range(30)]


class Answered(NamedTuple):
    """Version and fallback of an answer."""

    version: str | None
    fallback: str | None = None


class Rollout:
    """A lineage, and a server that polls when it is told to. No controller runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = RolloutStore(world.engine)
        world.registry.leases.ensure(CONTROLLER)
        self.term = world.registry.leases.acquire(CONTROLLER, "test", START_MS, 1_000_000)
        self.now_s = 0.0
        system = replace(run.SYSTEM, clock=lambda: self.now_s, now_ms=self.now_ms)
        self.service = world.service(SETTINGS, system=system)

    def now_ms(self) -> int:
        return START_MS + round(1_000 * self.now_s)

    def act(self, name: str, decide: Callable[[LineageView], Change]) -> None:
        """Execute a command."""
        self.store.command("base", name, decide, user="ada", request_id=None, now_ms=START_MS + 1)

    def gate(self) -> None:
        """Let versions stop at verified."""
        self.act("policy", lambda view: changes.set_policy(view, {"mode": "gated"}, "test"))

    def to_canary(self, number: int, share: float) -> None:
        """Make a verified version the canary, as the controller does."""
        view = self.store.view("base")
        move = Move(version=number, from_status="verified", to_status="canary", why="gates", share=share)
        assert self.store.move(view, move, policy.of(view.policy), term=self.term, now_ms=START_MS + 1)

    def evidence(self) -> Evidence:
        """Return what the controller reads."""
        view = self.store.view("base")
        return evidence.read(self.world.engine, view, policy.of(view.policy), self.now_ms())

    def after_one_poll(self) -> dict[str, Answered]:
        """Return the answer of each client after one poll."""
        self.poll()
        return answers(self.service)

    def poll(self) -> None:
        """Poll once, after the time in which a report falls due."""
        self.now_s += REPORT_S
        self.service.poll()

    def version_after_one_poll(self) -> Answered:
        """Return the answer that all clients get after one poll."""
        (answer,) = set(self.after_one_poll().values())
        return answer


def answers(service: Service) -> dict[str, Answered]:
    async def go() -> list[RankAnswer]:
        return [await service.rank(request(client)) for client in CLIENTS]

    found = zip(CLIENTS, asyncio.run(go()), strict=True)
    return {client: Answered(each.version, each.fallback) for client, each in found}


def started(service: Service) -> Service:
    """Start a service, which polls once by itself."""
    service.start()
    wait_until(lambda: service.is_ready)
    return service


@pytest.fixture
def rollout(tmp_path: Path) -> Iterator[Rollout]:
    made = Rollout(World(tmp_path))
    started(made.service)
    yield made
    made.service.stop()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of the versions that were loaded."""
    found: list[str] = []
    load = scorer.Loader.load

    def counted(loader: scorer.Loader, sha256: str) -> scorer.VersionScorer:
        found.append(sha256)
        return load(loader, sha256)

    monkeypatch.setattr(scorer.Loader, "load", counted)
    return found


def test_rollback_pin_promote_kill_and_resume_load_nothing(loads: list[str], rollout: Rollout) -> None:
    addresses = []
    for number in (1, 2):
        addresses.append(rollout.world.go_live("base", number))
        assert rollout.version_after_one_poll() == (str(number), None)
    for name, decide, expected in (
        ("pin", lambda view: changes.pin(view, 1, "why"), ("1", None)),
        ("unpin", lambda view: changes.unpin(view, "why"), ("1", None)),
        ("promote", lambda view: changes.promote(view, 2, "why"), ("2", None)),
        ("kill", lambda view: changes.kill(view, "why"), (None, WITHDRAWN)),
        ("resume", lambda view: changes.resume(view, "why"), ("2", None)),
        ("rollback", lambda view: changes.rollback(view, None, "wait", "why"), ("1", None)),
        ("resume", lambda view: changes.resume(view, "why"), ("1", None)),
        ("rollback", lambda view: changes.rollback(view, None, "wait", "why"), (None, WITHDRAWN)),
    ):
        rollout.act(name, decide)
        assert rollout.version_after_one_poll() == expected
    assert loads == addresses


def test_a_canary_serves_its_clients_and_its_promotion_and_abort_load_nothing(
    loads: list[str], rollout: Rollout
) -> None:
    addresses = [rollout.world.go_live("base", 1)]
    rollout.gate()
    for number, ending in ((2, changes.promote), (3, changes.abort)):
        before = rollout.version_after_one_poll()
        addresses.append(rollout.world.go_live("base", number))
        # Verified, so it answers no one, but it is loaded: a canary needs it in memory everywhere.
        assert rollout.version_after_one_poll() == before
        assert loads == addresses
        rollout.to_canary(number, 0.3)
        key = salt("base", number)
        in_canary = {client: slice_of(client, key, 0.3) == CANARY for client in CLIENTS}
        assert set(in_canary.values()) == {True, False}
        expected = {client: Answered(str(number)) if is_in else before for client, is_in in in_canary.items()}
        assert rollout.after_one_poll() == expected
        if ending is changes.promote:
            rollout.act("promote", lambda view: changes.promote(view, None, "why"))
            assert rollout.version_after_one_poll() == ("2", None)
        else:
            rollout.act("abort", lambda view: changes.abort(view, "wait", "why"))
            assert rollout.version_after_one_poll() == ("2", None)
    assert loads == addresses


def test_r2_of_ten_thousand_clients_none_is_moved_twice_by_a_bad_canary(rollout: Rollout) -> None:
    clients = [f"shopper-{number}" for number in range(10_000)]
    share = policy.Policy().canary_share

    def in_canary() -> set[str]:
        """Poll, and return the clients whose lists the canary ranks; the others have version 1."""
        rollout.poll()
        chosen = {client: rollout.service.versions.routes.choose("base", client).version for client in clients}
        assert {None if each is None else each.number for each in chosen.values()} <= {1, number}
        return {client for client, version in chosen.items() if version is not None and version.number == number}

    rollout.world.go_live("base", 1)
    rollout.gate()
    for number in (2, 3):
        rollout.world.go_live("base", number)
        assert in_canary() == set()
        rollout.to_canary(number, share)
        first = in_canary()
        # Four standard deviations of the binomial distribution.
        assert abs(len(first) - share * 10_000) <= 4 * (share * 10_000) ** 0.5
        assert in_canary() == first
        rollout.act("abort", lambda view: changes.abort(view, "keep", "why"))
        assert in_canary() == set()


def test_a_kill_and_a_canary_outlive_a_start_without_the_database(rollout: Rollout) -> None:
    world = rollout.world
    world.go_live("base", 1)
    rollout.gate()
    world.go_live("base", 2)
    rollout.to_canary(2, 0.3)
    with_canary = rollout.after_one_poll()
    assert {answer.version for answer in with_canary.values()} == {"1", "2"}

    def restarted() -> dict[str, Answered]:
        away = db.create(f"sqlite:///{world.home / 'nowhere' / 'x.db'}")
        service = started(world.service(SETTINGS, engine=away))
        try:
            return answers(service)
        finally:
            service.stop()

    assert restarted() == with_canary
    rollout.act("kill", lambda view: changes.kill(view, "why"))
    rollout.after_one_poll()
    assert set(restarted().values()) == {(None, WITHDRAWN)}


def test_r11_while_the_database_stalls_versions_keep_their_roles_and_the_decision_arrives_in_the_next_poll(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalled(_reader: MapReader, _names: Collection[str]) -> dict[str, LineageMap]:
        raise StoreError("canceling statement due to statement timeout")

    rollout.world.go_live("base", 1)
    assert rollout.version_after_one_poll() == ("1", None)
    rollout.act("kill", lambda view: changes.kill(view, "why"))
    with monkeypatch.context() as patch:
        patch.setattr(MapReader, "read", stalled)
        assert rollout.version_after_one_poll() == ("1", None)
    assert rollout.version_after_one_poll() == (None, WITHDRAWN)
    assert rollout.service.health().withdrawn == {"base": "killed: why"}


@pytest.mark.slow
@pytest.mark.postgres
def test_r11_a_decision_arrives_after_a_real_database_has_stalled(postgres_url: str, tmp_path: Path) -> None:
    url = new_database(postgres_url)
    world = World(tmp_path, url)
    world.go_live("base", 1)
    settings = replace(SETTINGS, poll_s=0.1)
    with Proxy(make_url(url).port or 0) as proxy:
        engine = db.create(proxy.through(url), DatabaseSettings().at_most(DATABASE_TIMEOUT_S))
        service = started(world.service(settings, engine=engine))
        try:
            assert set(answers(service).values()) == {Answered("1")}
            proxy.stall()
            RolloutStore(world.engine).command(
                "base", "kill", lambda view: changes.kill(view, "why"), user="ada", request_id=None, now_ms=START_MS
            )
            # More than the time after which a stalled statement is given up, so the poll has failed.
            wait_until(lambda: service.health().map_age_s > 1.5 * DATABASE_TIMEOUT_S)
            assert set(answers(service).values()) == {Answered("1")}
            proxy.flow()
            wait_until(lambda: set(answers(service).values()) == {Answered(None, WITHDRAWN)})
            wait_until(lambda: service.health().map_age_s < DATABASE_TIMEOUT_S)
        finally:
            service.stop()
            engine.dispose()
            world.engine.dispose()


def test_servers_report_what_the_controller_reads(rollout: Rollout) -> None:
    world = rollout.world
    world.go_live("base", 1)
    rollout.gate()
    (world.artifacts / world.go_live("base", 2) / "dense.safetensors").unlink()
    rollout.poll()
    seen = rollout.evidence()
    assert seen.loads[1] == Loads(ok=(f"{socket.gethostname()}:8080",))
    (reason,) = seen.loads[2].refused.values()
    assert reason.startswith("holds ['golden.safetensors', ")
    world.go_live("base", 3)
    rollout.after_one_poll()
    assert rollout.evidence().loads[3].ok
    rollout.to_canary(3, 0.3)
    rollout.after_one_poll()
    num = Counter(slice_of(client, salt("base", 3), 0.3) for client in CLIENTS)
    rollout.poll()
    slices = rollout.evidence().slices
    assert slices[3, CANARY].answered == num[CANARY]
    assert slices[3, CONTROL].answered == num[CONTROL]
    assert slices[1, LIVE].answered == len(CLIENTS) + num[None]
    assert sum(slices[3, CANARY].latency.values()) == num[CANARY]
    assert (slices[3, CANARY].fallbacks, slices[3, CANARY].bad) == (0, 0)
    rollout.service.drain()
    rollout.poll()
    assert rollout.evidence().loads[3] == Loads()


def test_a_lineage_that_never_had_a_version_is_not_withdrawn(rollout: Rollout) -> None:
    assert rollout.version_after_one_poll() == (None, NO_VERSION)


class Decision(NamedTuple):
    """A decision of the controller or of a user, and how a server shows that it follows."""

    decide: Callable[[], object]
    is_followed: Callable[[], bool]


class PolledDecisions:
    """The stop event of a poll loop: each wait passes in no time, and decisions fall somewhere between two polls."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._pending: list[tuple[Decision, float]] = []
        self._open: Decision | None = None
        self._decided_s = 0.0
        self.now_s = 0.0
        self.delays_s: list[float] = []

    def plan(self, decisions: Sequence[Decision], offsets: Sequence[float]) -> None:
        """Make these decisions one after the other, each after a share of the wait that it falls into."""
        self._pending = list(zip(decisions, offsets, strict=True))

    def is_set(self) -> bool:
        """Return whether all decisions are followed."""
        return not self._pending and self._open is None

    def wait(self, seconds: float) -> bool:
        """Note whether the poll that has just ended follows, make the next decision, and let the time pass."""
        if self._open is not None and self._open.is_followed():
            self.delays_s.append(self.now_s - self._decided_s)
            self._open = None
        if self._open is None and self._pending:
            self._open, offset = self._pending.pop(0)
            self._decided_s = self.now_s + offset * seconds
            assert not self._open.is_followed()
            self._open.decide()
        self.now_s += seconds
        assert self.now_s - self._decided_s <= 10 * self._poll_s, "a server does not follow"
        return self.is_set()


def test_ramps_rollbacks_and_kills_are_followed_within_the_poll_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll loop itself, at the default period, with decisions at random times between its polls."""
    world = World(tmp_path)
    world.experiments.create(
        key="exp-1",
        arms=(Arm(name="control", policy="incoming_order", is_control=True), Arm(name="treatment", lineage="base")),
        now_ts=START_MS,
        share=0.01,
    )
    for number in (1, 2):
        world.go_live("base", number)
    store, ramps, poll_s = RolloutStore(world.engine), RampStore(world.engine), ServingSettings().poll_s
    polled = PolledDecisions(poll_s)
    service = world.service(ServingSettings(), system=replace(run.SYSTEM, clock=lambda: polled.now_s))

    def act(name: str, decide: Callable[[LineageView], Change]) -> object:
        return store.command("base", name, decide, user="ada", request_id=None, now_ms=START_MS + 1)

    def step(share: float) -> Decision:
        def is_followed() -> bool:
            experiment = service.versions.routes.experiment
            return experiment is not None and int((experiment.table >= 0).sum()) == round(10_000 * share)

        at = START_MS + round(10_000 * share)
        return Decision(lambda: ramps.set_share("exp-1", share, now_ts=at, reason="ramp"), is_followed)

    def serves(number: int | None) -> bool:
        version = service.versions.routes.choose("base", "c-1").version
        return (None if version is None else version.number) == number

    decisions = [
        *(step(share) for share in (0.05, 0.1, 0.25, 0.5, 1.0)),
        Decision(lambda: act("rollback", lambda view: changes.rollback(view, None, "wait", "why")), lambda: serves(1)),
        Decision(lambda: act("kill", lambda view: changes.kill(view, "why")), lambda: serves(None)),
    ]
    polled.plan(decisions, list(np.random.default_rng(24).random(len(decisions))))
    service.poll()
    assert serves(2)
    monkeypatch.setattr(service, "_stop", polled)
    service._poll_forever()
    assert len(polled.delays_s) == len(decisions)
    assert 0.0 < max(polled.delays_s) <= poll_s < BACK_WITHIN_S
