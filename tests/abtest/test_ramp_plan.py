from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.experiment import Arm
from abtest.ramp_plan import Ramp, RampPlan, decide
from abtest.results import Check
from stream.errors import ConfigError
from stream.schemas.times import DAY_MS


def check(status: str = "ok", name: str = "sample_ratio") -> Check:
    return Check(check_name=name, stat=None, p=None, status=status, detail=f"{name} is {status}")


HEALTHY = Ramp(
    experiment="first",
    plan=RampPlan(steps=(0.01, 0.05, 0.1), every_ms=DAY_MS),
    row_version=1,
    arms=(Arm(name="control", lineage="prm", is_control=True),),
    share=0.01,
    epoch=1,
    start_ts=1_000,
    checks=(check(), check("alert", "multi_arm")),
    as_of=1_000 + DAY_MS,
)


def test_a_step_is_taken_once_the_share_has_lasted_and_all_data_until_then_are_sound() -> None:
    assert decide(HEALTHY, {}, 1_000 + DAY_MS).share == 0.05
    assert decide(HEALTHY, {}, 999 + DAY_MS).share is None
    for unsound in (
        replace(HEALTHY, as_of=999 + DAY_MS),
        replace(HEALTHY, as_of=None, checks=()),
        replace(HEALTHY, checks=(check("undefined"),)),
    ):
        found = decide(unsound, {}, 10 * DAY_MS)
        assert (found.share, found.held) == (None, {})
        assert found.reason.startswith("waits for")


def test_what_freezes_a_ramp_is_named_before_the_step_is_due() -> None:
    found = decide(replace(HEALTHY, checks=(check("blocked"),)), {"prm": "killed: fire"}, 2_000)
    assert found.held == {"sample_ratio": "sample_ratio is blocked", "lineage prm": "killed: fire"}
    assert found.reason == "frozen by sample_ratio: sample_ratio is blocked; lineage prm: killed: fire"


def test_a_share_set_by_hand_goes_on_with_the_step_above_it() -> None:
    assert decide(replace(HEALTHY, share=0.07), {}, 1_000 + DAY_MS).share == 0.1
    assert decide(replace(HEALTHY, share=0.1), {}, 1_000 + DAY_MS).reason == "all steps are done"


@given(
    statuses=st.lists(st.sampled_from(("ok", "alert", "blocked", "undefined")), max_size=4),
    lineages=st.dictionaries(st.sampled_from(("prm", "armmt")), st.just("no live version"), max_size=2),
    as_of=st.none() | st.integers(0, 3 * DAY_MS),
    now_ts=st.integers(0, 3 * DAY_MS),
    share=st.sampled_from((0.01, 0.02, 0.1)),
)
def test_no_share_grows_without_evidence(
    statuses: list[str], lineages: dict[str, str], as_of: int | None, now_ts: int, share: float
) -> None:
    checks = tuple(check(status, f"check{number}") for number, status in enumerate(statuses))
    ramp = replace(HEALTHY, checks=checks, as_of=as_of, share=share)
    found = decide(ramp, lineages, now_ts)
    assert found == decide(ramp, lineages, now_ts)
    if found.share is not None:
        assert not lineages
        assert statuses
        assert set(statuses) <= {"ok", "alert"}
        assert as_of is not None
        assert min(now_ts, as_of) >= ramp.due_ts
        assert share < found.share <= ramp.plan.steps[-1]


@pytest.mark.parametrize(
    ("steps", "every_ms", "named"),
    [
        ((float("nan"),), 1, "steps = nan"),
        ((), 1, "above 0"),
        ((0.5, 0.1), 1, "above the one before"),
        ((0.5, 1.5), 1, "at most 1"),
        ((0.5,), 0, "every"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(steps: tuple[float, ...], every_ms: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RampPlan(steps=steps, every_ms=every_ms)
