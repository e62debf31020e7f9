from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sqlalchemy import Engine, select

from abtest import validation
from abtest.experiment import Arm, Epoch
from abtest.first_exposures import FirstExposures
from abtest.moments import Moments
from abtest.page import page_html
from abtest.plan import Plan
from abtest.report import report
from abtest.results import Check
from abtest.sample_ratio_checks import ratio_checks
from abtest.tables import health
from stream.schemas.times import DAY_MS
from tests.harness.generated_facts import LAST_TS, fill
from tests.harness.sessions import make_session

EPOCH = Epoch(number=1, start_ts=0, end_ts=None, coverage=1.0, weights=(0.5, 0.5), dealt=(5_000, 5_000), sha256="")
SAME = (Arm(name="control", lineage="a", is_control=True), Arm(name="treatment", lineage="a"))
OTHER = (SAME[0], Arm(name="treatment", lineage="b"))


def cells(arms: tuple[int, int], **fields: object) -> list[FirstExposures]:
    """Return clients of both arms whose first exposures agree."""
    return [
        replace(validation.exposed_once(arm.name, n), lineage="a", **fields)  # type: ignore[arg-type]
        for arm, n in zip(SAME, arms, strict=True)
        if n
    ]


def checked(
    found: Sequence[FirstExposures],
    *,
    dealt: Sequence[tuple[int, int]] = ((5_000, 5_000),),
    arms: tuple[Arm, ...] = SAME,
    analysed: tuple[int, int] | None = None,
) -> dict[str, Check]:
    numbers = [sum(cell.exposed for cell in found if cell.arm == arm.name) for arm in arms]
    samples = {
        arm.name: validation.sample_of(Moments.of(np.ones((n, 12))), buyers=0)
        for arm, n in zip(arms, analysed or numbers, strict=True)
    }
    epochs = [replace(EPOCH, number=at, dealt=buckets) for at, buckets in enumerate(dealt, start=1)]
    facts = replace(validation.facts_of(samples), exposures=tuple(found))
    return {check.check_name: check for check in ratio_checks(validation.experiment_of(Plan(), arms), epochs, facts)}


def test_the_ratio_follows_the_buckets_dealt() -> None:
    """Weights of one half each, but 14 and 15 buckets: 29,000 clients would fail against the weights."""
    clients = cells((14_000, 15_000))
    right, wrong = checked(clients, dealt=[(14, 15)]), checked(clients, dealt=[(15, 15)])
    assert right["sample_ratio"].p == pytest.approx(1.0)
    for name in ("sample_ratio", "sample_ratio_sequential", "sample_ratio_assigned", "sample_ratio_analysed"):
        assert (right[name].status, wrong[name].status) == ("ok", "blocked")


def test_epochs_are_weighed_by_their_clients() -> None:
    clients = [*cells((1_000, 3_000)), *cells((5_000, 5_000), epoch=2)]
    found = checked(clients, dealt=[(10, 30), (5_000, 5_000)])
    assert found["sample_ratio"].p == pytest.approx(1.0)
    assert "control 6000 (expected 6000.0)" in found["sample_ratio"].detail
    assert found["sample_ratio_by_epoch"].p == 1.0


def test_populations_are_tested_apart() -> None:
    open_windows = [replace(cell, exposed=1_000) for cell in cells((1_000, 1_300))]
    found = checked(open_windows, analysed=(1_000, 800))
    assert [found[f"sample_ratio{name}"].status for name in ("", "_assigned", "_analysed")] == [
        "ok",
        "blocked",
        "blocked",
    ]
    assert found["sample_ratio_analysed"].p == pytest.approx(stats.chisquare([1_000, 800]).pvalue)
    assert found["sample_ratio_assigned"].detail.startswith("clients assigned so far: control 1000 (expected 1150.0)")


def test_two_biased_days_of_opposite_sign_block_and_the_whole_does_not_see_them() -> None:
    days = [(600, 400), (500, 500), (400, 600)]
    found = checked([cell for at, day in enumerate(days) for cell in cells(day, day_ts=at * DAY_MS)])
    assert found["sample_ratio"].p == pytest.approx(1.0)
    by_day = found["sample_ratio_by_day"]
    assert by_day.status == "blocked"
    assert by_day.p == pytest.approx(3 * stats.chisquare([600, 400]).pvalue)
    assert "1970-01-01 is the furthest of 3" in by_day.detail or "1970-01-03 is the furthest of 3" in by_day.detail


def test_a_day_of_two_epochs_is_tested_against_both() -> None:
    clients = [*cells((900, 100)), *cells((100, 900), epoch=2), *cells((100, 900), epoch=2, day_ts=DAY_MS)]
    assert checked(clients, dealt=[(9_000, 1_000), (1_000, 9_000)])["sample_ratio_by_day"].p == 1.0


def test_biased_epochs_of_opposite_sign_block() -> None:
    found = checked([*cells((600, 400)), *cells((400, 600), epoch=2)], dealt=[(50, 50), (5_000, 5_000)])
    assert (found["sample_ratio"].status, found["sample_ratio_by_epoch"].status) == ("ok", "blocked")
    assert found["sample_ratio_by_epoch"].detail.startswith("epoch ")


@pytest.mark.parametrize(
    ("field", "values"), [("version", ("1", "2")), ("fell_back", (True, False))], ids=["version", "fallback"]
)
def test_what_serving_did_first_warns_and_blocks_nothing(field: str, values: tuple[object, object]) -> None:
    name = "sample_ratio_by_version" if field == "version" else "sample_ratio_by_fallback"
    hidden = [*cells((700, 300), **{field: values[0]}), *cells((300, 700), **{field: values[1]})]
    found = checked(hidden)
    assert (found["sample_ratio"].status, found[name].status) == ("ok", "alert")
    assert "the arms themselves can cause this" in found[name].detail
    fair = [*cells((500, 500), **{field: values[0]}), *cells((500, 500), **{field: values[1]})]
    assert checked(fair)[name].status == "ok"


def test_versions_are_compared_between_the_arms_that_can_serve_them() -> None:
    one_sided = [cell for at in ("1", "2") for cell in cells((500, 0), version=at)]
    others = [replace(cell, arm="treatment", lineage="b") for cell in one_sided]
    assert "sample_ratio_by_version" not in checked([*one_sided, *others], arms=OTHER)
    assert checked(one_sided, arms=SAME)["sample_ratio_by_version"].status == "alert"


def test_one_part_is_the_whole_and_has_no_check() -> None:
    found = checked(cells((500, 500), version="1"))
    assert set(found) == {f"sample_ratio{name}" for name in ("", "_sequential", "_assigned", "_analysed")}


def test_strange_arms_and_epochs_are_left_to_the_strays() -> None:
    clients = [*cells((500, 500)), *cells((400, 0), epoch=7), validation.exposed_once("stranger", 300)]
    assert checked(clients, analysed=(500, 500))["sample_ratio"].p == pytest.approx(1.0)


def test_nobody_is_undefined_and_blocks_nothing() -> None:
    found = checked([])
    assert (found["sample_ratio"].status, found["sample_ratio_sequential"].status) == ("undefined", "ok")


@pytest.mark.slow
def test_a_report_finds_biased_days_and_stores_and_shows_them(store_engine: Engine) -> None:
    arms = ["control"] * 80 + ["treatment"] * 20 + ["treatment"] * 80 + ["control"] * 20
    fill(
        store_engine,
        [
            make_session(f"q{at}", f"c{at}", arm=arm, impression_ts=1_000 + at // 100 * DAY_MS)
            for at, arm in enumerate(arms)
        ],
        matured_ts=LAST_TS + DAY_MS,
    )
    found = report(store_engine, "first")
    (by_day,) = (check for check in found.checks if check.check_name == "sample_ratio_by_day")
    assert (by_day.status, found.verdict) == ("blocked", "invalid")
    assert found.verdict_reason.startswith("sample_ratio_by_day failed")
    assert "sample_ratio_by_day" in page_html(found)
    with store_engine.connect() as connection:
        stored = connection.execute(select(health.c.p).where(health.c.check_name == "sample_ratio_by_day")).scalar_one()
    assert stored == by_day.p
