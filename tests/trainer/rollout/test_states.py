"""The laws of the state machine (R1), and its moves one by one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.rollout.views import NOW_MS, STATUSES, all_gates, applied, lineage, verdicts, version, views
from trainer.rollout import changes, policy
from trainer.rollout.policy import Policy
from trainer.rollout.states import (
    BEFORE_CANARY,
    GATES,
    MOVES,
    Hold,
    LineageView,
    Move,
    Outcome,
    Status,
    Verdict,
    failure_of,
    next_move,
)

GATED = Policy(mode="gated")


@st.composite
def cases(draw: st.DrawFn) -> tuple[LineageView, Mapping[int, Mapping[str, Verdict]]]:
    view = draw(views())
    return view, draw(verdicts(view))


def decide(view: LineageView, found: Mapping[int, Mapping[str, Verdict]], now_ms: int = NOW_MS) -> Move | Hold:
    return next_move(view, found, policy.of(view.policy), now_ms, bucket_share=0.5)


@given(cases())
def test_a_move_is_one_of_the_machine_that_the_controller_may_make(case: Any) -> None:
    view, found = case
    move = decide(view, found)
    if isinstance(move, Move):
        of = view.get(move.version)
        assert of is not None
        assert of.status == move.from_status
        assert "controller" in MOVES[move.from_status, move.to_status]
        changes.check_moves(view, changes.of_move(view, move, policy.of(view.policy)), "controller")


@given(cases())
def test_no_wait_leads_to_more_clients(case: Any) -> None:
    """R1: there is no path from wait to canary or live."""
    view, found = case
    move = decide(view, found)
    if isinstance(move, Move) and move.to_status in {"canary", "live"}:
        needed = GATES if move.to_status == "live" else BEFORE_CANARY
        assert [found[move.version][gate].outcome for gate in needed] == ["pass"] * len(needed)


@given(cases())
def test_a_fail_leads_out(case: Any) -> None:
    """R1: a fail in any state that serves or may serve leads to rolled_back or rejected."""
    view, found = case
    if view.lock is not None or view.policy["mode"] == "direct":
        return
    watched = {
        v.number
        for v in view.versions
        if v.status in {"published", "verified", "canary"}
        or (v.status == "live" and NOW_MS - (v.live_since or 0) <= 1_000 * GATED.watch_s)
    }
    failed = {number for number in watched if failure_of(found, number)}
    move = decide(view, found)
    if failed:
        assert isinstance(move, Move)
        assert move.version in failed
        assert move.to_status == ("rolled_back" if move.from_status in {"live", "canary"} else "rejected")
    elif isinstance(move, Move):
        assert move.to_status not in {"rolled_back", "rejected"}


@given(cases())
def test_a_lock_wins_over_everything(case: Any) -> None:
    """R1: pinned, frozen, killed win over everything, and so does the mode direct."""
    view, found = case
    if view.lock is not None or view.policy["mode"] == "direct":
        assert isinstance(decide(view, found), Hold)


@given(cases())
def test_the_same_input_gives_the_same_move(case: Any) -> None:
    view, found = case
    assert decide(view, found) == decide(view, found)


@given(cases())
def test_at_most_one_canary_and_one_live(case: Any) -> None:
    view, found = case
    move = decide(view, found)
    if isinstance(move, Move):
        after = applied(view, changes.of_move(view, move, policy.of(view.policy)), NOW_MS)
        for status in ("canary", "live"):
            assert sum(v.status == status for v in after.versions) <= 1
        if move.to_status == "rolled_back":
            assert after.lock is not None
            assert after.only("canary") is None


@settings(max_examples=60)
@given(st.data())
def test_the_controller_comes_to_rest(data: st.DataObject) -> None:
    """From any state, with verdicts that stay as they are, it makes each move once and then holds."""
    view = data.draw(views())
    found = data.draw(verdicts(view))
    seen = []
    for _ in range(3 * len(view.versions) + 1):
        move = decide(view, found)
        if isinstance(move, Hold):
            break
        seen.append((move.version, move.from_status, move.to_status))
        view = applied(view, changes.of_move(view, move, policy.of(view.policy)), NOW_MS)
    assert isinstance(move, Hold)
    assert len(set(seen)) == len(seen)


def test_no_status_leads_back_from_the_end() -> None:
    assert {from_status for from_status, _ in MOVES} == set(STATUSES) - {"retired"}
    for bad in ("rejected", "quarantined", "rolled_back"):
        assert {to for from_status, to in MOVES if from_status == bad} == {"retired"}


def test_a_verified_version_that_passes_gates_1_to_5_becomes_the_canary() -> None:
    found = all_gates(system="wait", business="wait")
    move = decide(lineage("live", "verified"), {2: found})
    assert move == Move(version=2, from_status="verified", to_status="canary", why="gates 1 to 5 passed", share=0.02)


@pytest.mark.parametrize("gate", BEFORE_CANARY)
@pytest.mark.parametrize("outcome", ["wait", "fail"])
def test_each_gate_before_the_canary_counts(gate: str, outcome: Outcome) -> None:
    move = decide(lineage("live", "verified"), {2: all_gates(**{gate: outcome})})
    if outcome == "wait":
        assert move == Hold(reason=f"version 2 waits for {gate}: {gate} said so", waits_for=(gate,))
    else:
        assert isinstance(move, Move)
        assert (move.to_status, move.why) == ("rejected", f"{gate}: {gate} said so")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("outcome", ["wait", "fail"])
def test_each_gate_of_the_canary_counts(gate: str, outcome: Outcome) -> None:
    move = decide(lineage("live", "canary"), {2: all_gates(**{gate: outcome})}, NOW_MS + 300_000)
    if outcome == "wait":
        assert isinstance(move, Hold)
        assert move.waits_for == (gate,)
    else:
        assert isinstance(move, Move)
        assert move.to_status == "rolled_back"


def test_a_canary_lasts_its_minimum_time() -> None:
    view = lineage("live", "canary")
    assert decide(view, {2: all_gates()}, NOW_MS + 299_001) == Hold(reason="version 2: the canary lasts another 1 s")
    move = decide(view, {2: all_gates()}, NOW_MS + 300_000)
    assert isinstance(move, Move)
    assert move.to_status == "live"


def test_without_evidence_nothing_moves() -> None:
    for statuses in (("verified",), ("live", "verified"), ("live", "canary")):
        later = decide(lineage(*statuses), {}, NOW_MS + 10**9)
        assert isinstance(later, Hold)
        assert "no evidence" in later.reason


def test_older_verified_versions_are_skipped_before_the_newest_moves() -> None:
    view = lineage("live", "verified", "verified")
    move = decide(view, {2: all_gates(), 3: all_gates()})
    assert isinstance(move, Move)
    assert (move.version, move.to_status) == (2, "superseded")


@pytest.mark.parametrize(("age_s", "moves"), [(0, True), (600, True), (601, False)])
def test_a_live_version_is_watched_for_a_while(age_s: int, moves: bool) -> None:
    view = lineage("superseded", "live")
    view = replace(view, versions=(view.versions[0], replace(view.versions[1], live_since=NOW_MS - 1_000 * age_s)))
    move = decide(view, {2: all_gates(system="fail")})
    assert isinstance(move, Move) == moves


def test_the_lineage_names_its_former_version() -> None:
    statuses: tuple[Status, ...] = ("superseded", "superseded", "superseded", "live")
    view = lineage(*statuses)
    skipped = replace(view.versions[2], live_since=None)
    promoted_again = replace(view.versions[0], live_since=50)
    assert view.former == view.versions[2]
    assert replace(view, versions=(*view.versions[:2], skipped, view.versions[3])).former == view.versions[1]
    assert replace(view, versions=(promoted_again, *view.versions[1:])).former == promoted_again
    assert lineage("live").former is None
    assert version(1, "live") == lineage("live").get(1)
