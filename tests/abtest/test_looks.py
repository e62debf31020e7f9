"""Looks as pure functions of simulated clients."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from abtest import looks, validation
from abtest.estimates import estimate
from abtest.experiment import Arm
from abtest.group_sequential import boundaries
from abtest.inference import compare
from abtest.looks import Look
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from abtest.plan import Plan
from abtest.queries import Facts, Sample
from stream.schemas.times import DAY_MS

ARMS = (*validation.ARMS, Arm(name="third", lineage="b"))
TWO = validation.ARMS


def sample(seed: int, n: int, buyers: float) -> Sample:
    vectors = validation.client_sums(np.random.default_rng(seed), n, buyers)
    buyers_found = int((vectors[:, 3] > 0).sum())
    return validation.sample_of(Moments.of(vectors), buyers=buyers_found)


def facts(n: int, *, buyers: tuple[float, ...] = (0.08, 0.08), end_ts: int | None = None) -> Facts:
    return validation.facts_of(
        {arm.name: sample(index, n, share) for index, (arm, share) in enumerate(zip(ARMS, buyers, strict=False))},
        end_ts=end_ts,
    )


def test_a_single_look_is_the_fixed_horizon_test() -> None:
    experiment = validation.experiment_of(Plan())
    found = facts(800, buyers=(0.08, 0.09))
    (look,) = looks.take(experiment, found, 5, [])
    cvr = METRICS["cvr"]
    control, treatment = (estimate(cvr, found.matured[arm.name].moments) for arm in TWO)
    tested = compare(control, treatment)
    assert look.p == pytest.approx(tested.p_fixed, rel=1e-6)
    assert (look.lo, look.hi) == pytest.approx((tested.lo, tested.hi))
    assert look.boundary == pytest.approx(stats.norm.isf(0.025))
    assert (look.number, look.as_of, look.spent, look.is_last) == (1, 5, 0.05, True)


def test_looks_have_the_boundaries_of_their_information() -> None:
    experiment = validation.experiment_of(Plan(looks=3, clients=3_000))
    taken: list[Look] = []
    for as_of, n in ((1, 400), (2, 900), (3, 1_500)):
        taken += looks.take(experiment, facts(n), as_of, taken)
    assert [look.fraction for look in taken] == pytest.approx([800 / 3_000, 0.6, 1.0])
    assert [look.boundary for look in taken] == pytest.approx(
        boundaries([look.information for look in taken], [look.spent for look in taken])
    )
    assert taken[-1].spent == 0.05
    assert [look.verdict for look in taken] == ["keep running", "keep running", "do not ship"]
    assert "no evidence of a change at the last look" in taken[-1].reason
    assert looks.take(experiment, facts(2_000), 4, taken) == []


def test_the_same_watermark_has_one_look() -> None:
    experiment = validation.experiment_of(Plan(looks=3, clients=3_000))
    taken = looks.take(experiment, facts(400), 1, [])
    assert looks.take(experiment, facts(900), 1, taken) == []


@pytest.mark.parametrize(("share", "verdict"), [(0.16, "ship"), (0.03, "do not ship")])
def test_an_early_crossing_decides_and_its_set_excludes_zero(share: float, verdict: str) -> None:
    experiment = validation.experiment_of(Plan(looks=3, clients=8_000))
    (look,) = looks.take(experiment, facts(1_500, buyers=(0.08, share)), 1, [])
    assert (look.verdict, look.is_last) == (verdict, True)
    assert look.boundary is not None
    assert abs(look.z) >= look.boundary > 2.5
    assert look.lo is not None
    assert look.hi is not None
    assert look.lo * look.hi > 0.0
    assert look.p is not None
    assert look.p < 0.05


def test_arms_are_decided_one_by_one_at_their_share_of_alpha() -> None:
    experiment = validation.experiment_of(Plan(looks=2, clients=9_000), ARMS)
    first = looks.take(experiment, facts(1_500, buyers=(0.08, 0.08, 0.2)), 1, [])
    assert [(look.arm, look.verdict, look.alpha) for look in first] == [
        ("treatment", "keep running", 0.025),
        ("third", "ship", 0.025),
    ]
    second = looks.take(experiment, facts(3_000, buyers=(0.08, 0.08, 0.2)), 2, first)
    assert [(look.arm, look.number, look.is_last) for look in second] == [("treatment", 2, True)]


def test_a_stopped_experiment_spends_the_rest_before_its_planned_end() -> None:
    experiment = validation.experiment_of(Plan(looks=2, clients=9_000))
    (look,) = looks.take(experiment, facts(1_000, end_ts=1), 1, [])
    assert (look.fraction, look.spent, look.is_last) == (1.0, 0.05, True)


def test_information_that_shrinks_by_chance_does_not_stop_a_look() -> None:
    experiment = validation.experiment_of(Plan(looks=3, clients=4_000))
    taken = looks.take(experiment, facts(900), 1, [])
    (look,) = looks.take(experiment, facts(850), 2, taken)
    assert look.information > taken[0].information
    assert look.fraction == taken[0].fraction
    assert look.boundary is None
    assert look.set_kind == "line"


def test_planned_days_count_from_the_start_to_the_mature_sessions() -> None:
    experiment = validation.experiment_of(Plan(looks=2, days=10))
    found = facts(400)
    at_ts = 4 * DAY_MS
    found = replace(found, data_range=replace(found.data_range, matured_ts=at_ts))
    assert looks.fraction(experiment, found) == pytest.approx(0.4)


def test_an_undefined_difference_has_no_look() -> None:
    experiment = validation.experiment_of(Plan())
    one = validation.sample_of(Moments.of(np.ones((1, len(COLUMNS)))), buyers=1)
    assert looks.take(experiment, validation.facts_of(dict.fromkeys(("control", "treatment"), one)), 1, []) == []


def test_a_p_that_underflows_keeps_its_z() -> None:
    experiment = validation.experiment_of(Plan(looks=2, clients=400_000))
    certain = {
        arm: validation.sample_of(
            Moments(n=100_000, mean=np.full(len(COLUMNS), value), comoment=np.eye(len(COLUMNS)) * 10.0), buyers=10_000
        )
        for arm, value in (("control", 1.0), ("treatment", 3.0))
    }
    gmv = validation.experiment_of(replace(experiment.plan, primary="gmv"))
    (look,) = looks.take(gmv, validation.facts_of(certain), 1, [])
    assert math.isfinite(look.z)
    assert look.verdict == "ship"
