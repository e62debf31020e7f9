"""The map that serving reads, after the moves and commands of the real store, on SQLite and PostgreSQL."""

from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import Engine

from tests.trainer.rollout.world import LINEAGE, QUICK, GatedLineage, address
from trainer.rollout import changes, policy
from trainer.rollout.changes import Change
from trainer.rollout.served_map import LineageMap, MapReader, Pointer
from trainer.rollout.states import LineageView, Move
from trainer.versions.leases import CONTROLLER


class Shop(GatedLineage):
    """A gated lineage whose version 1 is live, and its map."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.registry.leases.ensure(CONTROLLER)
        self.controller_term = self.registry.leases.acquire(CONTROLLER, "one", 0, 10**15)

    def to_canary(self, number: int, share: float) -> None:
        """Make a version the canary."""
        move = Move(version=number, from_status="verified", to_status="canary", why="gates", share=share)
        view = self.store.view(LINEAGE)
        assert self.store.move(view, move, policy.of(QUICK), term=self.controller_term, now_ms=number)

    @property
    def map(self) -> LineageMap:
        return MapReader(self.engine).read([LINEAGE, "unknown"])[LINEAGE]


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def pointer(number: int) -> Pointer:
    return Pointer(number, address(number))


ONE, TWO, THREE = (pointer(number) for number in (1, 2, 3))


def test_only_lineages_that_exist_have_a_map(shop: Shop) -> None:
    shop.registry.ensure_lineage("armmt", "armmt", "tiny", "h" * 64)
    reader = MapReader(shop.engine)
    assert reader.read([LINEAGE, "armmt", "unknown"]) == {LINEAGE: LineageMap(live=ONE), "armmt": LineageMap()}
    assert reader.read(["unknown"]) == reader.read([]) == {}


def test_from_the_candidate_over_the_canary_to_the_live_version(shop: Shop) -> None:
    shop.publish(2)
    shop.publish(3)
    assert shop.map == LineageMap(live=ONE, candidate=THREE)
    shop.to_canary(3, 0.02)
    shop.publish(4)
    assert shop.map == LineageMap(live=ONE, canary=THREE, canary_share=0.02)
    shop.command("promote", lambda view: changes.promote(view, 3, "why"))
    assert shop.map == LineageMap(live=THREE, former=(ONE,), candidate=pointer(4))


def test_former_versions_are_those_that_were_live_the_last_one_first(shop: Shop) -> None:
    shop.publish(2)
    shop.to_canary(2, 0.02)
    shop.command("abort", lambda view: changes.abort(view, "keep", "why"))
    assert shop.status_of(2) == "superseded"
    shop.publish(3)
    for at_ms, number in ((10, 3), (11, 1), (12, 3)):
        decide = partial(changes.promote, number=number, why="why")
        shop.store.command(LINEAGE, "promote", decide, user="ada", request_id=None, now_ms=at_ms)
    assert shop.map == LineageMap(live=THREE, former=(ONE,))


def test_a_rollback_to_nothing_leaves_nothing(shop: Shop) -> None:
    shop.command("rollback", lambda view: changes.rollback(view, None, "wait", "why"))
    assert shop.map == LineageMap(rolled_back=1)
    assert shop.map.withdrawn == "version 1 was rolled back, and no version is left that was live before it"


def test_a_killed_lineage_keeps_its_versions_for_its_return(shop: Shop) -> None:
    shop.command("kill", lambda view: changes.kill(view, "why"))
    assert shop.map == LineageMap(live=ONE, killed="why")
    assert shop.map.withdrawn == "killed: why"
    shop.command("resume", lambda view: changes.resume(view, "why"))
    assert shop.map == LineageMap(live=ONE)
    assert shop.map.withdrawn is None


@pytest.mark.parametrize(
    ("name", "decide"),
    [
        ("freeze", lambda view: changes.freeze(view, "why")),
        ("pin", lambda view: changes.pin(view, None, "why")),
        ("kill", lambda view: changes.kill(view, "why")),
        ("policy", lambda view: changes.set_policy(view, {"mode": "direct"}, "why")),
    ],
)
def test_a_version_that_the_controller_may_not_move_is_no_candidate(
    shop: Shop, name: str, decide: Callable[[LineageView], Change]
) -> None:
    shop.publish(2)
    shop.command(name, decide)
    assert shop.map.candidate is None
