from dataclasses import replace

import pytest

from abtest import health, validation
from abtest.metrics import COLUMNS
from abtest.moments import Moments
from abtest.plan import Plan
from abtest.queries import Facts, Sample
from abtest.results import Check
from abtest.store import Epoch
from abtest.strays import Strays

EPOCHS = (Epoch(number=1, start_ts=0, end_ts=None, coverage=1.0, weights=(0.5, 0.5), sha256=""),)


def facts(strays: Strays) -> Facts:
    empty = Sample(moments=Moments.empty(len(COLUMNS)), buyers=0)
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
