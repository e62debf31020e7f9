"""The change of each command, and the laws that hold for any sequence of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from tests.trainer.rollout.views import NOW_MS, applied, lineage, version, views
from trainer.rollout import changes, states
from trainer.rollout.changes import Change
from trainer.rollout.policy import Policy
from trainer.rollout.states import LineageView

COMMANDS: dict[str, Callable[[LineageView, int | None], Change]] = {
    "promote": lambda view, n: changes.promote(view, n, "why"),
    "abort": lambda view, _n: changes.abort(view, "keep", "why"),
    "abort and rewind": lambda view, _n: changes.abort(view, "skip", "why"),
    "rollback": lambda view, n: changes.rollback(view, n, "wait", "why"),
    "pin": lambda view, n: changes.pin(view, n, "why"),
    "unpin": lambda view, _n: changes.unpin(view, "why"),
    "freeze": lambda view, _n: changes.freeze(view, "why"),
    "kill": lambda view, _n: changes.kill(view, "why"),
    "resume": lambda view, _n: changes.resume(view, "why"),
    "rewind": lambda view, _n: changes.rewind(view, "skip", "why"),
    "policy": lambda view, _n: changes.set_policy(view, {"canary_s": 1}, "why"),
}


def statuses(view: LineageView) -> list[str]:
    return [each.status for each in view.versions]


def after(view: LineageView, change: Change) -> LineageView:
    changes.check_moves(view, change, "user")
    return applied(view, change, NOW_MS)


@given(st.data())
def test_commands_keep_one_live_version_and_one_canary(data: st.DataObject) -> None:
    """Any commands in any order keep one live version, one canary, and no canary in a locked lineage."""
    view = data.draw(views())
    if view.lock is not None and view.only("canary") is not None:
        view = replace(view, pinned=None, frozen=None, killed=None)
    for _ in range(4):
        name = data.draw(st.sampled_from(sorted(COMMANDS)))
        number = data.draw(st.one_of(st.none(), st.integers(0, 9)))
        had_live = view.only("live")
        try:
            change = COMMANDS[name](view, number)
            changes.check_moves(view, change, "user")
        except ConfigError:
            continue
        view = applied(view, change, NOW_MS)
        for status in ("live", "canary"):
            assert statuses(view).count(status) <= 1
        if view.lock is not None:
            assert view.only("canary") is None
        if had_live is not None and name not in {"rollback", "abort and rewind"}:
            assert view.only("live") is not None
        if view.pinned is not None and name == "pin":
            pinned = view.get(view.pinned)
            assert pinned is not None
            assert pinned.status == "live"


def test_promote_takes_the_canary_or_else_the_newest_verified_version() -> None:
    assert statuses(after(lineage("live", "canary"), changes.promote(lineage("live", "canary"), None, "why"))) == [
        "superseded",
        "live",
    ]
    view = lineage("live", "verified", "verified")
    assert statuses(after(view, changes.promote(view, None, "why"))) == ["superseded", "verified", "live"]
    with pytest.raises(ConfigError, match="neither a canary nor a verified version"):
        changes.promote(lineage("live"), None, "why")


def test_promote_of_another_version_ends_the_canary() -> None:
    view = lineage("superseded", "live", "canary")
    assert statuses(after(view, changes.promote(view, 1, "why"))) == ["live", "superseded", "superseded"]


@pytest.mark.parametrize("status", ["published", "rejected", "quarantined", "rolled_back", "retired"])
def test_promote_refuses_a_version_that_did_not_verify(status: Any) -> None:
    view = lineage("live", status)
    with pytest.raises(ConfigError, match=f"version 2 is {status}; a user cannot make it live"):
        changes.check_moves(view, changes.promote(view, 2, "why"), "user")


def test_promote_names_what_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="version = 7: lineage prm has no such version; its versions are 1 to 1"):
        changes.promote(lineage("live"), 7, "why")
    with pytest.raises(ConfigError, match="it has no versions"):
        changes.promote(lineage(), 7, "why")
    with pytest.raises(ConfigError, match="version 1 is live already"):
        changes.promote(lineage("live"), 1, "why")


@pytest.mark.parametrize("lock", [{"pinned": 1}, {"frozen": "x"}, {"killed": "x"}])
def test_promote_respects_a_lock(lock: Any) -> None:
    with pytest.raises(ConfigError, match="unpin or resume"):
        changes.promote(lineage("live", "verified", **lock), None, "why")


def test_abort_supersedes_the_canary_and_leaves_the_trainer_alone() -> None:
    view = lineage("live", "canary", "verified")
    change = changes.abort(view, "keep", "why")
    assert statuses(after(view, change)) == ["live", "superseded", "verified"]
    assert (change.fences, change.lineage) == (False, {})
    with pytest.raises(ConfigError, match="no canary"):
        changes.abort(lineage("live"), "keep", "why")


def test_a_bad_canary_is_rolled_back_with_what_was_trained_from_it() -> None:
    view = lineage("superseded", "live", "canary", "verified", "published", "rejected")
    change = changes.abort(view, "replay", "why")
    done = after(view, change)
    assert statuses(done) == ["superseded", "live", "rolled_back", "quarantined", "quarantined", "rejected"]
    assert (done.rewind_to, done.rewind_mode, change.fences) == (2, "replay", True)
    assert done.frozen == "released by hand: version 3 was rolled back"


def test_rollback_makes_the_former_version_live_and_quarantines_descendants() -> None:
    view = lineage("superseded", "superseded", "live", "canary", "verified")
    change = changes.rollback(view, None, "wait", "bad prices")
    done = after(view, change)
    assert statuses(done) == ["superseded", "live", "rolled_back", "quarantined", "quarantined"]
    assert (done.rewind_to, done.rewind_mode, change.fences, change.version) == (2, "wait", True, 3)


def test_rollback_to_an_older_version_quarantines_those_in_between() -> None:
    view = lineage("superseded", "superseded", "superseded", "live")
    assert statuses(after(view, changes.rollback(view, 1, "wait", "why"))) == [
        "live",
        "quarantined",
        "quarantined",
        "rolled_back",
    ]


def test_rollback_leaves_another_branch_alone() -> None:
    """After a rewind, version 4 stems from version 1; going back from 4 does not touch what 1 stems from."""
    versions = (
        version(1, "superseded"),
        version(2, "rolled_back"),
        version(3, "quarantined"),
        version(4, "live", parent=1),
        version(5, "verified", parent=4),
    )
    view = replace(lineage(), versions=versions)
    assert statuses(after(view, changes.rollback(view, None, "wait", "why"))) == [
        "live",
        "rolled_back",
        "quarantined",
        "rolled_back",
        "quarantined",
    ]


def test_rollback_ends_a_canary_that_stems_from_no_version() -> None:
    versions = (version(1, "superseded"), version(2, "live"), version(3, "canary", parent=0))
    view = replace(lineage(), versions=versions)
    assert statuses(after(view, changes.rollback(view, None, "wait", "why"))) == ["live", "rolled_back", "quarantined"]


def test_rollback_after_a_promotion_of_an_old_version_keeps_the_newer_one() -> None:
    view = lineage("live", "superseded", "superseded")
    done = after(view, changes.rollback(view, None, "wait", "why"))
    assert statuses(done) == ["rolled_back", "superseded", "live"]
    assert done.rewind_to == 3


def test_rollback_of_the_only_version_leaves_none_live() -> None:
    view = lineage("live", "published")
    done = after(view, changes.rollback(view, None, "skip", "why"))
    assert statuses(done) == ["rolled_back", "quarantined"]
    assert done.rewind_to == 0


def test_rollback_refuses_a_target_that_was_never_live() -> None:
    skipped = replace(version(1, "superseded"), live_since=None)
    view = replace(lineage(), versions=(skipped, version(2, "rejected"), version(3, "live")))
    for number, status in ((1, "superseded"), (2, "rejected"), (3, "live")):
        with pytest.raises(ConfigError, match=f"to = {number}: version {number} of prm is {status}"):
            changes.rollback(view, number, "wait", "why")
    with pytest.raises(ConfigError, match="no live version"):
        changes.rollback(lineage("verified"), None, "wait", "why")


def test_rollback_removes_a_pin_on_the_bad_version_only() -> None:
    view = lineage("superseded", "superseded", "live", pinned=3)
    assert after(view, changes.rollback(view, None, "wait", "why")).pinned is None
    elsewhere = replace(view, pinned=2)
    assert after(elsewhere, changes.rollback(elsewhere, None, "wait", "why")).pinned == 2


def test_pin_makes_the_version_live_and_ends_the_canary() -> None:
    view = lineage("superseded", "live", "canary")
    assert statuses(after(view, changes.pin(view, 1, "why"))) == ["live", "superseded", "superseded"]
    kept = after(view, changes.pin(view, None, "why"))
    assert (statuses(kept), kept.pinned) == (["superseded", "live", "superseded"], 2)
    assert after(kept, changes.unpin(kept, "why")).pinned is None
    with pytest.raises(ConfigError, match="not pinned"):
        changes.unpin(view, "why")
    with pytest.raises(ConfigError, match="no live version to pin"):
        changes.pin(lineage("verified"), None, "why")


def test_freeze_and_kill_end_the_canary_and_resume_releases_both() -> None:
    view = lineage("live", "canary")
    frozen = after(view, changes.freeze(view, " data outage "))
    assert (statuses(frozen), frozen.frozen) == (["live", "superseded"], "data outage")
    killed = after(frozen, changes.kill(frozen, "wrong prices"))
    assert (killed.lock, statuses(killed)) == ("killed: wrong prices", ["live", "superseded"])
    resumed = after(killed, changes.resume(killed, "why"))
    assert resumed.lock is None
    with pytest.raises(ConfigError, match="neither frozen nor killed"):
        changes.resume(resumed, "why")
    with pytest.raises(ConfigError, match="reason = ' ': expected some words"):
        changes.freeze(view, " ")


def test_the_decision_on_the_range_reaches_a_trainer_that_waits_and_ends_one_that_does_not() -> None:
    view = lineage("superseded", "live")
    with pytest.raises(ConfigError, match="lineage prm need not go back"):
        changes.rewind(view, "skip", "why")
    waiting = after(view, changes.rollback(view, None, "wait", "why"))
    change = changes.rewind(waiting, "skip", "why")
    assert (change.fences, after(waiting, change).rewind_mode) == (False, "skip")
    skipping = after(waiting, change)
    assert (skipping.rewind_to, skipping.frozen) == (1, waiting.frozen)
    assert changes.rewind(skipping, "replay", "why").fences


def test_resume_lets_a_trainer_that_waits_learn_the_range_again() -> None:
    view = lineage("superseded", "live")
    for mode, expected in (("wait", "replay"), ("skip", "skip"), ("replay", "replay")):
        done = after(view, changes.rollback(view, None, mode, "why"))  # type: ignore[arg-type] # one of the modes
        assert after(done, changes.resume(done, "why")).rewind_mode == expected
    frozen = after(view, changes.freeze(view, "outage"))
    assert after(frozen, changes.resume(frozen, "why")).rewind_mode is None


def test_a_policy_is_kept_as_what_differs() -> None:
    view = lineage("live")
    done = after(view, changes.set_policy(view, {"canary_s": "60"}, "why"))
    assert done.policy == {"mode": "gated", "canary_s": 60}


def test_a_move_of_the_controller_rolls_back_as_the_policy_says() -> None:
    view = lineage("live", "canary")
    move = states.Move(version=2, from_status="canary", to_status="rolled_back", why="system: slow")
    change = changes.of_move(view, move, Policy(mode="gated", on_rollback="skip"))
    assert (change.lineage["rewind_mode"], change.lineage["rewind_to"], change.why) == ("skip", 1, "system: slow")


def rejection(number: int, gate: str = "shadow") -> states.Move:
    return states.Move(version=number, from_status="verified", to_status="rejected", why=f"{gate}: why", gate=gate)


def after_move(view: LineageView, move: states.Move, on_rejection: Any) -> LineageView:
    change = changes.of_move(view, move, Policy(mode="gated", on_rejection=on_rejection))
    changes.check_moves(view, change, "controller")
    assert change.fences == ("rewind_to" in change.lineage)
    return applied(view, change, NOW_MS)


def test_a_rejection_sends_the_trainer_back_if_the_policy_says_so() -> None:
    view = lineage("superseded", "live", "superseded", "verified", "published")
    done = after_move(view, rejection(4), "skip")
    assert statuses(done) == ["superseded", "live", "quarantined", "rejected", "quarantined"]
    assert (done.rewind_to, done.rewind_mode) == (2, "skip")
    assert done.lock is None, "it was shown to no client, so later versions may go live"
    kept = after_move(view, rejection(4), "keep")
    assert statuses(kept) == ["superseded", "live", "superseded", "rejected", "published"]
    assert kept.rewind_to is None


def test_a_rejection_keeps_the_canary_that_the_version_was_trained_from() -> None:
    done = after_move(lineage("live", "canary", "superseded", "verified"), rejection(4), "replay")
    assert (statuses(done), done.rewind_to) == (["live", "canary", "quarantined", "rejected"], 2)
    again = after_move(lineage("live", "canary", "rejected", "verified"), rejection(4), "replay")
    assert (statuses(again), again.rewind_to) == (["live", "quarantined", "rejected", "rejected"], 1), (
        "the canary is the fault"
    )
    newer = after_move(lineage("live", "verified", "canary"), rejection(2), "replay")
    assert (statuses(newer), newer.rewind_to) == (["live", "rejected", "quarantined"], 1)


@pytest.mark.parametrize("gate", ["integrity", "golden"])
def test_a_damaged_version_says_nothing_of_what_was_learned(gate: str) -> None:
    done = after_move(lineage("live", "verified"), rejection(2, gate), "skip")
    assert (statuses(done), done.rewind_to) == (["live", "rejected"], None)


def test_without_a_live_version_training_goes_on() -> None:
    """A version that is only young would start from fresh weights, again and again."""
    done = after_move(lineage("rolled_back", "verified"), rejection(2, "prequential"), "skip")
    assert (statuses(done), done.rewind_to) == (["rolled_back", "rejected"], None)
