import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.learning.gate_numbers import CATEGORIES, comparison, norm_change, shadow
from trainer.learning.judged_lists import LIST, Measures
from trainer.rollout import gates, judgement
from trainer.rollout.gates import Loads
from trainer.rollout.policy import Policy
from trainer.rollout.states import LineageView, Verdict, VersionView

QUICK = Policy(prequential_lists=50, shadow_lists=50, calibration_labels=50)


def lists_of(size: int, seed: int = 0, *, head: bool = True) -> Measures:
    rng = np.random.default_rng(seed)
    lists = np.zeros(size, LIST)
    lists["version"] = 3
    lists["client"] = rng.integers(0, max(size // 4, 1), size)
    lists["category"] = rng.choice([b"a", b"b", b""], size)
    lists["served_loss"] = rng.uniform(1.0, 3.0, size)
    lists["loss"] = lists["served_loss"] - rng.normal(0.02, 0.01, size)
    lists["lead"] = rng.normal(0.2, 0.1, size)
    lists["observed"] = rng.integers(0, 3, size)
    lists["predicted"] = lists["observed"] + rng.normal(0, 0.1, size) if head else np.nan
    return lists


def verdicts(numbers: dict[str, float], *, live: bool = True) -> dict[str, Verdict]:
    """Return the verdicts of the gates on a version with these numbers."""
    own = VersionView(number=4, status="verified", metrics=numbers)
    before = (VersionView(number=3, status="live"),) if live else ()
    view = LineageView(name="prm", versions=(*before, own))
    return judgement.before_canary(view, own, judgement.Evidence(loads={4: Loads(ok=("a",))}), QUICK)


def outcome(numbers: dict[str, float], gate: str, *, live: bool = True) -> str:
    return verdicts(numbers, live=live)[gate].outcome


def test_good_numbers_pass() -> None:
    lists = lists_of(400)
    found = comparison(lists, lists, lists, has_live=True) | shadow(np.full(400, 0.95), np.zeros(400, np.bool_))
    assert {gate: verdict.outcome for gate, verdict in verdicts(found).items()} == dict.fromkeys(
        ("integrity", "golden", "prequential", "calibration", "shadow"), "pass"
    )
    assert found[judgement.LISTS] == 400
    assert found[judgement.LOSS] == pytest.approx(lists["loss"].sum() / lists["served_loss"].sum() - 1)
    assert found[judgement.LEAD] == pytest.approx(lists["lead"].mean())


def test_without_a_live_version_there_is_no_loss_to_compare() -> None:
    lists = lists_of(100)
    found = comparison(lists, lists, lists, has_live=False)
    assert judgement.LOSS not in found
    assert outcome(found, "prequential", live=False) == "pass"
    assert outcome(found, "prequential") == "wait"


def test_without_lists_all_gates_wait() -> None:
    nothing = np.zeros(0, LIST)
    found = comparison(nothing, nothing, nothing, has_live=True) | shadow(np.zeros(0), np.zeros(0, np.bool_))
    assert found == {}
    assert [outcome(found, gate) for gate in ("prequential", "calibration", "shadow")] == ["wait"] * 3
    # A version without any label says nothing either.
    unlabelled = lists_of(100)
    unlabelled["lead"] = unlabelled["loss"] = np.nan
    assert judgement.LISTS not in comparison(unlabelled, unlabelled, unlabelled, has_live=True)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 50), st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.integers(0, 80))
def test_what_the_version_loses_counts_and_what_it_gains_does_not(
    seed: int, worse: float, better: float, kept: int
) -> None:
    lists = lists_of(80, seed)
    newest = lists[lists.size - kept :]
    plain = comparison(lists, newest, newest, has_live=True)
    gained, lost = newest.copy(), newest.copy()
    gained["loss"], gained["lead"] = newest["loss"] - better, newest["lead"] + better
    lost["loss"], lost["lead"] = newest["loss"] + worse, newest["lead"] - worse
    assert comparison(lists, newest, gained, has_live=True) == plain
    found = comparison(lists, newest, lost, has_live=True)
    shift = worse if kept else 0.0
    for end in ("", "_low", "_high"):
        lead, loss = judgement.LEAD + end, judgement.LOSS + end
        assert found[lead] == pytest.approx(plain[lead] - shift)
        assert found[loss] == pytest.approx(plain[loss] + shift / lists["served_loss"].mean())
        assert found[judgement.LEAD + "_low"] <= found[judgement.LEAD] <= found[judgement.LEAD + "_high"]


def test_a_version_that_was_damaged_after_learning_fails() -> None:
    lists = lists_of(200)
    damaged = lists.copy()
    damaged["lead"], damaged["loss"] = -0.2, 4.0
    damaged["predicted"] = 20.0
    found = comparison(lists, lists, damaged, has_live=True)
    assert (outcome(found, "prequential"), outcome(found, "calibration")) == ("fail", "fail")
    first = comparison(lists, lists, damaged, has_live=False)
    assert outcome(first, "prequential", live=False) == "fail"


def test_predictions_move_to_those_of_the_version() -> None:
    lists = lists_of(100)
    doubled = lists[50:].copy()
    doubled["predicted"] *= 2
    found = comparison(lists, lists[50:], doubled, has_live=True)
    assert found[judgement.PREDICTED] == pytest.approx(2 * lists["predicted"].sum())
    assert found[judgement.OBSERVED] == lists["observed"].sum()
    own = lists["category"] == b"a"
    assert found[f"{judgement.PREDICTED}:a"] == pytest.approx(2 * lists["predicted"][own].sum())
    assert f"{judgement.PREDICTED}:" not in found, "lists without a category"


def test_the_categories_with_most_clicks_have_a_calibration() -> None:
    lists = lists_of(400)
    lists["category"] = [f"c{number % 20}".encode() for number in range(400)]
    lists["observed"] = [number % 20 for number in range(400)]
    found = comparison(lists, lists, lists, has_live=True)
    named = {name.partition(":")[2] for name in found if name.startswith(f"{judgement.OBSERVED}:")}
    assert named == {f"c{number}" for number in range(20 - CATEGORIES, 20)}


def test_a_category_has_a_name_that_a_database_can_hold() -> None:
    lists = lists_of(20)
    lists["category"] = b"a\0b\xc3"
    found = comparison(lists, lists, lists, has_live=True)
    assert f"{judgement.OBSERVED}:a\ufffdb\ufffd" in found


def test_a_model_without_a_click_head_passes_calibration_once_it_has_lists() -> None:
    lists = lists_of(100, head=False)
    found = comparison(lists, lists, lists, has_live=True)
    assert found[judgement.HEADS] == 0.0
    assert outcome(found, "calibration") == "pass"
    nothing = lists[:0]
    assert outcome(comparison(nothing, nothing, nothing, has_live=True), "calibration") == "wait"


def test_lists_of_one_item_say_nothing_about_order() -> None:
    found = shadow(np.array([np.nan, 0.5, 1.0]), np.array([True, False, True]))
    assert found == {judgement.SHADOW_LISTS: 2.0, judgement.CORRELATION: 0.75, judgement.CHURN: 0.5}


def test_the_norm_changes_relative_to_the_parent() -> None:
    assert norm_change(3.0, 2.0) == {judgement.NORM_CHANGE: 0.5}
    assert norm_change(3.0, None) == norm_change(3.0, 0.0) == norm_change(math.inf, 2.0) == {}
    history = [0.01, 0.02, 0.01, 0.015, 0.012]
    zero = norm_change(0.0, 2.0)[judgement.NORM_CHANGE]
    assert gates.integrity(Loads(ok=("a",)), zero, history, QUICK).outcome == "fail"
