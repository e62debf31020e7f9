from dataclasses import replace

import numpy as np
import pytest

from abtest import health, validation
from abtest.experiment import Epoch
from abtest.metrics import COLUMNS
from abtest.moments import Moments
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.results import Check
from abtest.strays import Strays

EPOCHS = (Epoch(number=1, start_ts=0, end_ts=None, coverage=1.0, weights=(0.5, 0.5), dealt=(5_000, 5_000), sha256=""),)


def facts(strays: Strays) -> Facts:
    empty = validation.sample_of(Moments.empty(len(COLUMNS)), buyers=0)
    return replace(validation.facts_of(dict.fromkeys(("control", "treatment"), empty)), strays=strays)


def checked(name: str, strays: Strays, primary: str = "cvr") -> Check:
    found = health.checks(validation.experiment_of(Plan(primary=primary)), EPOCHS, facts(strays))
    return next(check for check in found if check.check_name == name)


@pytest.mark.parametrize(("number", "status"), [(0, "ok"), (1, "alert"), (100, "alert"), (101, "blocked")])
def test_strays_are_shares_of_ten_thousand(number: int, status: str) -> None:
    strays = Strays(
        unknown_arm=number,
        clients=10_000,
        no_epoch=number,
        sessions=10_000,
        foreign_sessions=number,
        foreign_money=number,
        money_sessions=10_000,
    )
    assert {checked(name, strays, "gmv").status for name in ("unknown_arm", "epoch", "currency")} == {status}


def test_foreign_money_does_not_block_a_rate() -> None:
    strays = Strays(foreign_sessions=50, foreign_money=50, money_sessions=100, foreign_currencies=("USD",))
    assert checked("currency", strays, "cvr").status == "alert"
    assert checked("currency", strays, "gmv").status == "blocked"
    assert "(USD)" in checked("currency", strays).detail


def test_sessions_after_the_end_are_shown_and_block_nothing() -> None:
    found = checked("epoch", Strays(sessions=100, after_end=5_000))
    assert (found.status, "5000 came after the end" in found.detail) == ("ok", True)


def served(shares: tuple[float, float], latency_ms: tuple[float, float], n: int = 2_000) -> dict[str, Check]:
    """Return the checks of clients with three sessions each, of which a share fell back."""
    random = np.random.default_rng(11)
    samples = {}
    for arm, share, mean_ms in zip(("control", "treatment"), shares, latency_ms, strict=True):
        x = np.zeros((n, len(COLUMNS)))
        columns = {name: x[:, index] for index, name in enumerate(COLUMNS)}
        columns["sessions"][:] = columns["timed_sessions"][:] = 3
        columns["fallbacks"][:] = random.binomial(3, share, n)
        columns["latency_us"][:] = 3_000 * mean_ms * random.lognormal(0.0, 0.3, n)
        samples[arm] = validation.sample_of(Moments.of(x), buyers=0)
    found = validation.facts_of(samples)
    counts = tuple(
        replace(count, sessions=3 * n, fallbacks=round(n * samples[count.arm].moments.mean[COLUMNS.index("fallbacks")]))
        for count in found.counts
    )
    checks = health.checks(validation.experiment_of(Plan()), EPOCHS, replace(found, counts=counts))
    return {check.check_name: check for check in checks}


@pytest.mark.parametrize(
    ("shares", "status"),
    [((0.0, 0.0), "ok"), ((0.004, 0.004), "ok"), ((0.0, 0.008), "alert"), ((0.25, 0.25), "alert")],
    ids=["none", "few", "differ", "many"],
)
def test_untreated_sessions_alert_if_they_are_many_or_differ_between_arms(
    shares: tuple[float, float], status: str
) -> None:
    found = served(shares, (10.0, 10.0))["fallback"]
    assert found.status == status
    assert ("the arms differ" in found.detail) == (shares == (0.0, 0.008))
    assert f"treatment {round(6_000 * (found.stat or 0))} of 6000" in found.detail


@pytest.mark.parametrize(
    ("latency_ms", "status"),
    [((10.0, 10.0), "ok"), ((10.0, 10.7), "ok"), ((10.0, 13.0), "alert"), ((13.0, 10.0), "alert")],
)
def test_arms_that_take_different_times_alert(latency_ms: tuple[float, float], status: str) -> None:
    found = served((0.0, 0.0), latency_ms)["latency"]
    assert found.status == status
    assert found.detail.startswith("mean time of ranking: control ")


def test_unknown_latencies_are_no_difference() -> None:
    found = health.checks(validation.experiment_of(Plan()), EPOCHS, facts(Strays()))
    latency = next(check for check in found if check.check_name == "latency")
    assert (latency.status, latency.p, latency.detail) == ("ok", None, "mean time of ranking: unknown")
