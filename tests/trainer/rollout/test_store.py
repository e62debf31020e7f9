"""Moves and commands on SQLite and PostgreSQL: one transaction each, compared, recorded, repeatable."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from stream import db
from stream.errors import ConfigError, FencedError, StoreError
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.policy import Policy
from trainer.rollout.states import LineageView, Move
from trainer.rollout.store import RolloutStore
from trainer.versions.event_log import Event
from trainer.versions.leases import CONTROLLER
from trainer.versions.registry import Registry, Rewind
from trainer.versions.tables import rollout_events, versions

GATED = Policy(mode="gated")
TO_CANARY = Move(version=2, from_status="verified", to_status="canary", why="gates passed", share=0.02)


def address(number: int) -> str:
    return f"{number:064x}"


class Shop:
    """A lineage `prm` with its trainer, and a controller."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.registry = Registry(engine)
        self.store = RolloutStore(engine)
        self.registry.ensure_lineage("prm", "prm", "tiny", "h" * 64)
        self.trainer_term = self.registry.leases.acquire("prm", "trainer", 0, 10**12)
        self.registry.leases.ensure(CONTROLLER)
        self.term = self.registry.leases.acquire(CONTROLLER, "one", 0, 1_000)

    def publish(self, number: int, *statuses: str, parent: int | None = None) -> str:
        """Publish a version and move it on as its trainer does."""
        parent = number - 1 if parent is None else parent
        found = self.registry.publish(
            "prm",
            number,
            address(number),
            parent=address(parent) if parent else None,
            term=self.trainer_term,
            metrics={},
            offsets={},
            published_ts=number,
        )
        for status in statuses:
            self.registry.advance("prm", number, self.trainer_term, to_status=status, why="test", now_ms=number)
        return found

    def act(self, name: str, decide: Callable[[LineageView], Change], **more: Any) -> Event:
        """Execute a command of the user `ada`."""
        given: dict[str, Any] = {"user": "ada", "request_id": None, "now_ms": 50} | more
        return self.store.command("prm", name, decide, **given)

    def statuses(self) -> dict[int, str]:
        return {version.number: version.status for version in self.store.view("prm").versions}

    def num_events(self) -> int:
        with db.read(self.engine) as connection:
            return connection.execute(select(func.count()).select_from(rollout_events)).scalar_one()


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def gate(shop: Shop) -> None:
    shop.act("policy", lambda view: changes.set_policy(view, {"mode": "gated"}, "start"))


def test_a_view_holds_the_lineage_and_its_versions(shop: Shop) -> None:
    assert shop.store.view("prm") == LineageView(name="prm")
    shop.publish(1, "verified", "live")
    view = shop.store.view("prm")
    assert (view.versions[0].status, view.versions[0].live_since, view.versions[0].artifact) == ("live", 1, address(1))
    assert shop.store.names() == ["prm"]
    with pytest.raises(ConfigError, match=r"lineage = 'prn': expected one of: prm$"):
        shop.store.view("prn")


def test_in_gated_mode_the_trainer_stops_at_verified(shop: Shop) -> None:
    shop.publish(1, "verified", "live")
    gate(shop)
    shop.publish(2, "verified")
    assert shop.registry.advance("prm", 2, shop.trainer_term, to_status="live", why="test", now_ms=2) is False
    assert shop.statuses() == {1: "live", 2: "verified"}


@pytest.mark.parametrize(
    ("name", "decide"),
    [
        ("freeze", lambda view: changes.freeze(view, "why")),
        ("kill", lambda view: changes.kill(view, "why")),
        ("pin", lambda view: changes.pin(view, None, "why")),
    ],
)
def test_a_lock_stops_the_trainer_in_direct_mode_too(
    shop: Shop, name: str, decide: Callable[[LineageView], Change]
) -> None:
    shop.publish(1, "verified", "live")
    shop.act(name, decide)
    shop.publish(2, "verified", "live")
    assert shop.statuses() == {1: "live", 2: "verified"}
    live = shop.registry.live("prm")
    assert (live is None) == (name == "kill")


def test_a_canary_and_its_promotion(shop: Shop) -> None:
    shop.publish(1, "verified", "live")
    gate(shop)
    shop.publish(2, "verified")
    seen = shop.store.view("prm")
    assert shop.store.move(seen, TO_CANARY, GATED, term=shop.term, now_ms=70, evidence={"golden": {"outcome": "pass"}})
    view = shop.store.view("prm")
    canary = view.only("canary")
    assert canary is not None
    assert (canary.canary_share, canary.canary_since, canary.row_version) == (0.02, 70, 3)
    assert view.row_version == seen.row_version + 1
    promote = Move(version=2, from_status="canary", to_status="live", why="gates 1 to 7 passed")
    assert shop.store.move(view, promote, GATED, term=shop.term, now_ms=80)
    live = shop.store.view("prm").only("live")
    assert live is not None
    assert (live.number, live.live_since, live.canary_share, live.canary_since) == (2, 80, None, None)
    assert shop.statuses()[1] == "superseded"
    events = shop.store.history("prm")[-2:]
    assert [event.actor for event in events] == [f"controller, term {shop.term}"] * 2
    assert events[0].evidence == {"golden": {"outcome": "pass"}}
    assert events[0].after == {"versions": {"2": "canary"}, "canary_share": 0.02}
    assert events[1].before == {"versions": {"1": "live", "2": "canary"}}
    assert events[1].after == {"versions": {"1": "superseded", "2": "live"}}


def test_a_move_of_a_lineage_that_has_changed_is_refused(shop: Shop) -> None:
    shop.publish(1, "verified", "live")
    gate(shop)
    shop.publish(2, "verified")
    seen = shop.store.view("prm")
    shop.act("freeze", lambda view: changes.freeze(view, "why"))
    before = shop.num_events()
    assert shop.store.move(seen, TO_CANARY, GATED, term=shop.term, now_ms=70) is False
    assert (shop.statuses(), shop.num_events()) == ({1: "live", 2: "verified"}, before)


def test_a_move_of_a_version_that_has_changed_is_refused(shop: Shop) -> None:
    shop.publish(1)
    seen = shop.store.view("prm")
    shop.registry.advance("prm", 1, shop.trainer_term, to_status="verified", why="test", now_ms=1)
    reject = Move(version=1, from_status="published", to_status="rejected", why="why")
    assert shop.store.move(seen, reject, GATED, term=shop.term, now_ms=70) is False
    assert shop.statuses() == {1: "verified"}


def test_a_stale_controller_moves_nothing(shop: Shop) -> None:
    """R4: the holder sleeps beyond its lease, another one takes over; nothing that the first one saw still counts."""
    gate(shop)
    shop.publish(1, "verified", "live")
    shop.publish(2, "verified")
    seen = shop.store.view("prm")
    with pytest.raises(FencedError, match="'one' holds"):
        shop.registry.leases.acquire(CONTROLLER, "two", 999, 1_000)
    second = shop.registry.leases.acquire(CONTROLLER, "two", 1_000, 1_000)
    before = shop.num_events()
    with pytest.raises(FencedError, match="term 1 has lost its lease"):
        shop.store.move(seen, TO_CANARY, GATED, term=shop.term, now_ms=1_001)
    assert shop.num_events() == before
    assert shop.store.move(seen, TO_CANARY, GATED, term=second, now_ms=1_002)
    shop.registry.leases.ensure(CONTROLLER)
    assert shop.registry.leases.acquire(CONTROLLER, "two", 1_003, 1_000) == second + 1


def test_a_rollback_is_one_transaction(shop: Shop) -> None:
    for number in (1, 2, 3):
        shop.publish(number, "verified", "live")
    shop.publish(4)
    event = shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "prices of zero"))
    assert shop.statuses() == {1: "superseded", 2: "live", 3: "rolled_back", 4: "quarantined"}
    view = shop.store.view("prm")
    assert (view.rewind_to, view.rewind_mode) == (2, "wait")
    assert view.lock == "frozen: released by hand: version 3 was rolled back"
    assert (event.version, event.from_status, event.to_status) == (3, "live", "rolled_back")
    assert (event.actor, event.command, event.why, event.event_ts) == ("ada", "rollback", "prices of zero", 50)
    assert event.before == {
        "versions": {"2": "superseded", "3": "live", "4": "published"},
        "rewind_to": None,
        "rewind_mode": None,
        "frozen": None,
    }
    assert event.after is not None
    assert event.after["versions"] == {"2": "live", "3": "rolled_back", "4": "quarantined"}
    assert event.after["term"] == shop.trainer_term + 1
    live = shop.registry.live("prm")
    assert live is not None
    assert live.version == 2


def test_a_rollback_fences_the_trainer(shop: Shop) -> None:
    for number in (1, 2):
        shop.publish(number, "verified", "live")
    shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "why"))
    with pytest.raises(FencedError):
        shop.registry.leases.renew("prm", shop.trainer_term, 60, 1_000)
    with pytest.raises(FencedError):
        shop.publish(3)
    # Another process may take the lease at once.
    shop.trainer_term = shop.registry.leases.acquire("prm", "another", 61, 1_000)
    assert shop.trainer_term == 3
    assert shop.publish(3) == "quarantined"
    assert shop.publish(4) == "quarantined"
    assert shop.publish(5, parent=1) == "published"
    assert [event.to_status for event in shop.store.history("prm")][-3:] == ["quarantined", "quarantined", "published"]


def test_a_repeated_request_is_one_event(shop: Shop) -> None:
    """R6: the same request id changes nothing the second time and returns the first event."""
    for number in (1, 2, 3):
        shop.publish(number, "verified", "live")
    first = shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "why"), request_id="r-1")
    before = shop.num_events()
    again = shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "why"), request_id="r-1", now_ms=90)
    assert (again, shop.num_events(), shop.statuses()[2]) == (first, before, "live")
    with pytest.raises(ConfigError, match="request-id = 'r-1': belongs to 'rollback' of lineage prm already"):
        shop.act("freeze", lambda view: changes.freeze(view, "why"), request_id="r-1")
    other = shop.act("rollback", lambda view: changes.rollback(view, 1, "wait", "why"), request_id="r-2")
    assert (other.version, shop.statuses()[1]) == (2, "live")


def test_the_same_request_from_many_threads_is_one_event(shop: Shop) -> None:
    for number in (1, 2, 3, 4):
        shop.publish(number, "verified", "live")
    before = shop.num_events()
    found: list[Event] = []

    def repeat() -> None:
        found.append(shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "why"), request_id="r-1"))

    threads = [threading.Thread(target=repeat) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({event.id for event in found}) == 1
    assert shop.num_events() == before + 1


def test_a_request_id_of_another_lineage_is_named(shop: Shop) -> None:
    shop.registry.ensure_lineage("din", "din", "tiny", "h" * 64)
    shop.act("freeze", lambda view: changes.freeze(view, "why"), request_id="r-1")
    with pytest.raises(ConfigError, match="belongs to 'freeze' of lineage prm already"):
        shop.store.command(
            "din", "freeze", lambda view: changes.freeze(view, "why"), user="ada", request_id="r-1", now_ms=1
        )


@pytest.mark.parametrize(
    "user", ["", " ", "controller", " Controller, term 1", "trainer, term 3", "x" * 256, "ada\nbob", "\x1b[2J"]
)
def test_a_user_has_a_name_of_its_own(shop: Shop, user: str) -> None:
    with pytest.raises(ConfigError, match="as = "):
        shop.act("freeze", lambda view: changes.freeze(view, "why"), user=user)
    with pytest.raises(ConfigError, match="request-id = ''"):
        shop.act("freeze", lambda view: changes.freeze(view, "why"), request_id="")


@pytest.mark.parametrize("step", ["before_move", "before_event", "after_event"])
def test_a_command_that_dies_before_its_end_leaves_nothing(shop: Shop, step: str) -> None:
    for number in (1, 2):
        shop.publish(number, "verified", "live")

    def die(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    before = shop.store.view("prm")
    mortal = RolloutStore(shop.engine, die)
    with pytest.raises(KeyboardInterrupt):
        mortal.command(
            "prm",
            "rollback",
            lambda view: changes.rollback(view, None, "wait", "why"),
            user="ada",
            request_id="r-1",
            now_ms=1,
        )
    assert shop.store.view("prm") == before
    assert shop.act("rollback", lambda view: changes.rollback(view, None, "wait", "why"), request_id="r-1").version == 2


def test_a_row_that_changes_inside_the_transaction_is_noticed(shop: Shop) -> None:
    """The row version guards writes also where no lock does, as between two connections that share one."""
    shop.publish(1, "verified", "live")
    stale = shop.store.view("prm")
    shop.act("freeze", lambda view: changes.freeze(view, "why"))
    change = changes.kill(stale, "why")
    with (
        pytest.raises(StoreError, match="lineage prm was changed meanwhile"),
        db.transaction(shop.engine) as connection,
    ):
        shop.store._write(connection, stale, change, actor="user", actor_name="ada", now_ms=1, evidence={})


@pytest.mark.parametrize("status", ["live", "canary"])
def test_the_database_holds_one_live_version_and_one_canary(shop: Shop, status: str) -> None:
    row: dict[str, Any] = {"lineage": "prm", "parent": None, "term": 1, "metrics": {}, "offsets": {}, "published_ts": 1}
    row |= {"row_version": 1, "status": status}
    with db.transaction(shop.engine) as connection:
        connection.execute(insert(versions).values(version=1, artifact=address(1), **row))
    with pytest.raises(StoreError) as caught, db.transaction(shop.engine) as connection:
        connection.execute(insert(versions).values(version=2, artifact=address(2), **row))
    assert isinstance(caught.value.__cause__, IntegrityError)


def test_history_ends_at_a_time(shop: Shop) -> None:
    shop.publish(1, "verified", "live")
    shop.act("freeze", lambda view: changes.freeze(view, "outage"))
    assert [event.to_status for event in shop.store.history("prm")] == ["published", "verified", "live", "frozen"]
    assert [event.to_status for event in shop.store.history("prm", 49)][-1] == "live"
    assert shop.store.history("prm")[2].after == {"versions": {"1": "live"}}
    with pytest.raises(ConfigError, match="lineage = 'x'"):
        shop.store.history("x")


def test_retention_keeps_what_a_command_may_make_live_again(shop: Shop) -> None:
    for number in range(1, 8):
        shop.publish(number, "verified", "live")
    shop.act("pin", lambda view: changes.pin(view, 2, "why"))
    gate(shop)
    shop.act("unpin", lambda view: changes.unpin(view, "why"))
    shop.publish(8, "verified")
    move = Move(version=8, from_status="verified", to_status="canary", why="why", share=0.1)
    assert shop.store.move(shop.store.view("prm"), move, GATED, term=shop.term, now_ms=60)
    for number in (9, 10):
        shop.publish(number, "verified")
    shop.act("pin", lambda view: changes.pin(view, 1, "why"))
    shop.act("unpin", lambda view: changes.unpin(view, "why"))
    shop.registry.retire("prm", 1, shop.trainer_term, 99)
    kept = {number for number, status in shop.statuses().items() if status != "retired"}
    # 1 is live, 10 is the newest, 2 was live before.
    assert kept == {1, 2, 10}


def test_training_may_go_back_to_what_serves_or_may_serve_again(shop: Shop) -> None:
    def recoverable() -> list[int]:
        return sorted(int(found, 16) for found in shop.registry.recoverable("prm"))

    for number in range(1, 6):
        shop.publish(number, "verified", "live")
    assert recoverable() == [4, 5], "former and live"
    shop.act("pin", lambda view: changes.pin(view, 2, "why"))
    gate(shop)
    for number in (6, 7):
        shop.publish(number, "verified")
    assert recoverable() == [2, 5, 7], "pinned and live, former, and the newest that has not served yet"
    shop.act("unpin", lambda view: changes.unpin(view, "why"))
    move = Move(version=7, from_status="verified", to_status="canary", why="why", share=0.1)
    assert shop.store.move(shop.store.view("prm"), move, GATED, term=shop.term, now_ms=60)
    assert recoverable() == [2, 5, 7], "the canary, and none newer"
    shop.act("rollback", lambda view: changes.rollback(view, 5, "wait", "why"))
    shop.act("resume", lambda view: changes.resume(view, "why"))
    shop.act("promote", lambda view: changes.promote(view, 4, "why"), now_ms=70)
    shop.act("promote", lambda view: changes.promote(view, 3, "why"), now_ms=80)
    assert shop.registry.rewind("prm") == Rewind(to=5, mode="replay")
    assert recoverable() == [3, 4, 5], "live and former, and the one that training has to go back to"


@pytest.mark.slow
def test_commands_and_a_trainer_do_not_lock_each_other_out(shop: Shop) -> None:
    """A trainer publishes while commands run: no deadlock, and each version is live, verified or superseded."""
    failures: list[BaseException] = []

    def publish() -> None:
        try:
            for number in range(1, 13):
                shop.publish(number, "verified", "live")
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    trainer = threading.Thread(target=publish)
    trainer.start()
    while trainer.is_alive():
        shop.act("freeze", lambda view: changes.freeze(view, "why"))
        shop.act("resume", lambda view: changes.resume(view, "why"))
    trainer.join()
    assert failures == []
    assert set(shop.statuses().values()) <= {"live", "superseded", "verified"}
    assert list(shop.statuses().values()).count("live") <= 1
