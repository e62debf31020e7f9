"""Two movers of one lineage at once: the outcome is that of one after the other, each with its event, or a refusal."""

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest
from sqlalchemy import Engine

from stream.errors import ConfigError, ShelfwiseError
from tests.trainer.rollout.test_store import address
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.policy import Policy
from trainer.rollout.states import LineageView, Move
from trainer.rollout.store import RolloutStore
from trainer.versions.leases import CONTROLLER
from trainer.versions.registry import Registry

NUM_ROUNDS = 12
GATED: Final = Policy(mode="gated")
LIMIT_S = 60.0


class Outcome(NamedTuple):
    """A state of a lineage after two movers.

    Attributes:
        live: Number of the live version.
        lock: Which locks are set.
        statuses: Statuses of versions 1 to 3.
        refusals: Words of the errors, sorted.
    """

    live: int | None
    locks: frozenset[str]
    statuses: tuple[str, ...]
    refusals: tuple[str, ...]


Decide = Callable[[LineageView], Change]
COMMANDS: Final[dict[str, Decide]] = {
    "promote": lambda view: changes.promote(view, 3, "race"),
    "rollback": lambda view: changes.rollback(view, None, "wait", "race"),
    "pin": lambda view: changes.pin(view, 1, "race"),
    "kill": lambda view: changes.kill(view, "race"),
    "abort": lambda view: changes.abort(view, "keep", "race"),
}


class Round:
    """A lineage of its own with versions 1 (former), 2 (live) and 3 (canary), and a controller that saw it."""

    def __init__(self, engine: Engine, name: str, term: int) -> None:
        self.name, self.term, self.registry = name, term, Registry(engine)
        self.stores = [RolloutStore(engine), RolloutStore(engine)]
        self.registry.ensure_lineage(name, "prm", "tiny", "h" * 64)
        held = self.registry.leases.acquire(name, "trainer", 0, 10**12)
        for number, statuses in ((1, ("verified", "live")), (2, ("verified", "live")), (3, ("verified",))):
            parent = address(number - 1) if number > 1 else None
            self.registry.publish(
                name, number, address(number), parent=parent, term=held, metrics={}, offsets={}, published_ts=number
            )
            for status in statuses:
                self.registry.advance(name, number, held, to_status=status, why="test", now_ms=number)
        canary = Move(version=3, from_status="verified", to_status="canary", why="race", share=0.02)
        store = self.stores[0]
        assert store.move(store.view(name), canary, GATED, term=term, now_ms=10)
        self.seen = store.view(name)
        self.num_before = len(store.history(name))
        self.errors: list[ShelfwiseError] = []

    def act(self, mover: str, place: int) -> None:
        """Let a user give a command, or the controller make the canary live by what it saw."""
        store = self.stores[place]
        try:
            if mover != "controller":
                store.command(
                    self.name, mover, COMMANDS[mover], user=f"user {place}", request_id=None, now_ms=20 + place
                )
                return
            move = Move(version=3, from_status="canary", to_status="live", why="gates passed")
            if not store.move(self.seen, move, GATED, term=self.term, now_ms=20 + place):
                raise ConfigError(f"lineage {self.name} has changed")
        except ShelfwiseError as error:
            self.errors.append(error)

    def outcome(self) -> Outcome:
        view = self.stores[0].view(self.name)
        live = view.only("live")
        num_events = len(self.stores[0].history(self.name)) - self.num_before
        assert num_events == 2 - len(self.errors), "an event for each change, and none for a refusal"
        return Outcome(
            live=None if live is None else live.number,
            locks=frozenset(name for name in ("pinned", "frozen", "killed") if getattr(view, name) is not None),
            statuses=tuple(version.status for version in view.versions),
            refusals=tuple(sorted(str(error).replace(self.name, "NAME") for error in self.errors)),
        )


@pytest.fixture
def begun(engine: Engine) -> Callable[[str], Round]:
    leases = Registry(engine).leases
    leases.ensure(CONTROLLER)
    term = leases.acquire(CONTROLLER, "race", 0, 10**12)
    return lambda name: Round(engine, name, term)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("promote", "rollback"),
        ("promote", "promote"),
        ("pin", "kill"),
        ("rollback", "rollback"),
        ("rollback", "abort"),
        ("controller", "rollback"),
        ("controller", "pin"),
        ("controller", "promote"),
        ("controller", "controller"),
    ],
)
def test_two_movers_at_once_end_as_one_after_the_other(begun: Callable[[str], Round], one: str, other: str) -> None:
    possible: set[Outcome] = set()
    for first, second in ((one, other), (other, one)):
        alone = begun(f"serial-{first}-{second}-{len(possible)}")
        alone.act(first, 0)
        alone.act(second, 1)
        possible.add(alone.outcome())
    assert all(not refusal.count("deadlock") for found in possible for refusal in found.refusals)
    for number in range(NUM_ROUNDS):
        race, start = begun(f"race-{number}"), threading.Barrier(2)

        def go(mover: str, place: int, race: Round = race, start: threading.Barrier = start) -> None:
            start.wait(LIMIT_S)
            race.act(mover, place)

        threads = [threading.Thread(target=go, args=each) for each in ((one, 0), (other, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert not any(thread.is_alive() for thread in threads)
        assert race.outcome() in possible
