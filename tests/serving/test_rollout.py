"""Serving follows the commands of the rollout through the registry that it polls, with the real store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.metrics import Metrics
from serving.ranking import scorer
from serving.ranking.updater import VersionUpdater
from serving.ranking.versions import VersionManager
from tests.serving.world import World
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore


class Server:
    """A server that polls the registry when it is told to."""

    def __init__(self, world: World) -> None:
        loader = scorer.Loader(world.artifacts)
        self.versions = VersionManager(Metrics(), max_bad_outputs=5)
        self._updater = VersionUpdater(
            world.registry,
            self.versions,
            lambda _lineage, pointer: loader.load(pointer.artifact),
            Metrics(),
            pointers=world.home / "versions.json",
            clock=lambda: 0.0,
        )

    def after_one_poll(self) -> int | None:
        self._updater.poll(["base"])
        active = self.versions.get("base")
        return None if active is None else active.number


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def act(world: World, name: str, decide: Callable[[LineageView], Change]) -> None:
    RolloutStore(world.engine).command("base", name, decide, user="ada", request_id=None, now_ms=1)


def test_one_poll_after_a_rollback_the_former_version_serves(world: World) -> None:
    server = Server(world)
    for number in (1, 2, 3):
        world.go_live("base", number)
        assert server.after_one_poll() == number
    act(world, "rollback", lambda view: changes.rollback(view, None, "wait", "why"))
    assert server.after_one_poll() == 2
    act(world, "rollback", lambda view: changes.rollback(view, None, "wait", "why"))
    assert server.after_one_poll() == 1


def test_one_poll_after_a_pin_or_a_promotion_that_version_serves(world: World) -> None:
    server = Server(world)
    for number in (1, 2):
        world.go_live("base", number)
        server.after_one_poll()
    act(world, "pin", lambda view: changes.pin(view, 1, "why"))
    assert server.after_one_poll() == 1
    act(world, "unpin", lambda view: changes.unpin(view, "why"))
    act(world, "promote", lambda view: changes.promote(view, 2, "why"))
    assert server.after_one_poll() == 2
