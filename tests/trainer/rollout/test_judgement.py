"""The gates that apply to each status, and the numbers that each one takes."""

from dataclasses import replace

import numpy as np
import pytest

from abtest.metrics import COLUMNS
from abtest.moments import Moments
from tests.trainer.rollout.views import lineage
from tests.trainer.rollout.world import GOOD
from trainer.rollout import judgement
from trainer.rollout.gates import Loads, SliceCounts
from trainer.rollout.judgement import Evidence, judge
from trainer.rollout.policy import Policy
from trainer.rollout.slices import CANARY, CONTROL, LIVE
from trainer.rollout.states import BEFORE_CANARY, GATES, LineageView, Status

POLICY = Policy(mode="gated")
OK = Loads(ok=("a:1",))


def view(*statuses: Status, **metrics: float) -> LineageView:
    found = lineage(*statuses)
    return replace(found, versions=tuple(replace(v, metrics={**GOOD, **metrics}) for v in found.versions))


def outcomes(found: LineageView, evidence: Evidence, number: int) -> dict[str, str]:
    return {gate: verdict.outcome for gate, verdict in judge(found, evidence, POLICY)[number].items()}


def facts(cvr: float, n: int = 3_000) -> Moments:
    sums = np.zeros((n, len(COLUMNS)))
    for name, value in (("sessions", 1.0), ("items", 10.0), ("clicks", 1.0)):
        sums[:, COLUMNS.index(name)] = value
    for name in ("orders", "clicked_orders"):
        sums[: round(cvr * n), COLUMNS.index(name)] = 1.0
    return Moments.of(sums)


def test_each_status_has_its_gates() -> None:
    found = judge(view("superseded", "live", "canary", "verified", "published", "rejected"), Evidence(), POLICY)
    assert {number: tuple(verdicts) for number, verdicts in found.items()} == {
        2: ("integrity", "golden", "system"),
        3: GATES,
        4: BEFORE_CANARY,
    }


def test_good_numbers_pass_before_the_canary() -> None:
    found = view("live", "verified")
    assert set(outcomes(found, Evidence(loads={2: OK}), 2).values()) == {"pass"}
    assert outcomes(found, Evidence(), 2)["integrity"] == "wait"


@pytest.mark.parametrize(
    ("metrics", "gate"),
    [
        ({judgement.NORM_CHANGE: float("nan")}, "integrity"),
        ({f"{judgement.LEAD}_high": -0.01}, "prequential"),
        ({f"{judgement.LOSS}_low": 0.1, f"{judgement.LOSS}_high": 0.2}, "prequential"),
        ({judgement.PREDICTED: 2_000.0}, "calibration"),
        ({f"{judgement.PREDICTED}:hats": 2_000.0, f"{judgement.OBSERVED}:hats": 900.0}, "calibration"),
        ({judgement.CORRELATION: 0.4}, "shadow"),
    ],
)
def test_each_number_reaches_its_gate(metrics: dict[str, float], gate: str) -> None:
    found = outcomes(view("live", "verified", **metrics), Evidence(loads={2: OK}), 2)
    assert found == dict.fromkeys(BEFORE_CANARY, "pass") | {gate: "fail"}


@pytest.mark.parametrize(
    ("missing", "gate"),
    [
        (judgement.LEAD, "prequential"),
        (f"{judgement.LEAD}_low", "prequential"),
        (judgement.LISTS, "prequential"),
        (judgement.LOSS, "prequential"),
        (judgement.OBSERVED, "calibration"),
        (judgement.CORRELATION, "shadow"),
    ],
)
def test_a_number_that_is_missing_waits(missing: str, gate: str) -> None:
    found = view("live", "verified")
    metrics = {name: value for name, value in GOOD.items() if name != missing}
    found = replace(found, versions=(found.versions[0], replace(found.versions[1], metrics=metrics)))
    assert outcomes(found, Evidence(loads={2: OK}), 2)[gate] == "wait"


@pytest.mark.parametrize(
    ("sixth", "outcome"), [("superseded", "fail"), ("retired", "fail"), ("rolled_back", "pass"), ("rejected", "pass")]
)
def test_versions_that_went_live_and_stayed_trusted_make_the_history_of_orders(sixth: Status, outcome: str) -> None:
    """Five of them bind the next version; four, and one that was taken back or never went live, do not."""
    found = view("superseded", "superseded", "superseded", "superseded", sixth, "verified")
    number = 5 if sixth in {"retired", "rolled_back"} else found.versions[4].live_since
    versions = list(found.versions)
    versions[4] = replace(versions[4], live_since=number)
    versions[5] = replace(versions[5], metrics={**GOOD, judgement.CORRELATION: 0.8})
    versions.insert(0, replace(versions[0], number=0, metrics={}, status="live"))
    assert outcomes(replace(found, versions=tuple(versions)), Evidence(loads={6: OK}), 6)["shadow"] == outcome


def test_a_first_version_is_held_against_the_incoming_order_alone() -> None:
    metrics = {name: value for name, value in GOOD.items() if not name.startswith(judgement.LOSS)}
    found = lineage("verified")
    found = replace(found, versions=(replace(found.versions[0], metrics=metrics),))
    assert set(outcomes(found, Evidence(loads={1: OK}), 1).values()) == {"pass"}


def test_the_norm_is_held_against_the_versions_before() -> None:
    changes = [0.1, 0.11, 0.09, 0.1, 0.1, 5.0, 0.1]
    found = lineage("superseded", "superseded", "superseded", "superseded", "live", "verified", "verified")
    versions = tuple(
        replace(v, metrics={**GOOD, judgement.NORM_CHANGE: change})
        for v, change in zip(found.versions, changes, strict=True)
    )
    found = replace(found, versions=versions)
    evidence = Evidence(loads={6: OK, 7: OK})
    assert outcomes(found, evidence, 6)["integrity"] == "fail"
    assert outcomes(found, evidence, 7)["integrity"] == "pass"


def test_the_canary_is_held_against_its_control_slice() -> None:
    good, bad = SliceCounts(answered=3_000), SliceCounts(answered=3_000, bad=300)
    found = view("live", "canary")
    slices = {(2, CANARY): good, (2, CONTROL): good, (1, CONTROL): bad, (1, LIVE): bad}
    evidence = Evidence(loads={2: OK}, slices=slices, facts={CANARY: facts(0.1), CONTROL: facts(0.1)})
    assert set(outcomes(found, evidence, 2).values()) == {"pass"}
    worse = replace(evidence, slices=slices | {(2, CANARY): bad})
    assert outcomes(found, worse, 2)["system"] == "fail"
    fewer = replace(evidence, facts={CANARY: facts(0.01), CONTROL: facts(0.1)})
    assert outcomes(found, fewer, 2)["business"] == "fail"
    assert outcomes(found, replace(evidence, facts={}), 2)["business"] == "wait"


def test_the_live_version_is_held_against_the_former_one() -> None:
    found = view("superseded", "live")
    good, bad = SliceCounts(answered=3_000), SliceCounts(answered=3_000, bad=300)
    evidence = Evidence(loads={2: OK}, slices={(1, LIVE): good, (2, LIVE): bad})
    assert outcomes(found, evidence, 2)["system"] == "fail"
    assert outcomes(found, replace(evidence, slices={(1, LIVE): bad, (2, LIVE): bad}), 2)["system"] == "pass"
    unknown = replace(evidence, slices={(2, LIVE): bad})
    assert outcomes(found, unknown, 2)["system"] == "wait"
    assert outcomes(view("live"), Evidence(slices={(1, LIVE): bad}), 1)["system"] == "fail"
    refused = Evidence(loads={2: Loads(refused={"a:1": "5 bad outputs"})})
    assert outcomes(found, refused, 2)["integrity"] == "fail"
