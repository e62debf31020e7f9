import pytest
from sqlalchemy import Engine

from abtest.report import report
from tests.harness.generated_facts import fill, generate
from tests.harness.sessions import make_session, purchase

pytestmark = pytest.mark.slow


def test_open_windows_are_left_out_and_refuse_when_there_is_nothing_else(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, lift=3.0)
    fill(store_engine, sessions, matured_ts=3_000)
    mature = report(store_engine, "first")
    expected = sum(session.impression_ts <= 3_000 for session in sessions)
    assert sum(count.sessions for count in mature.counts) == expected
    assert not mature.partial
    partial = report(store_engine, "first", partial=True)
    assert sum(count.sessions for count in partial.counts) == len(sessions)
    assert (partial.verdict, partial.partial) == ("refused", True)
    assert "windows are still open" in partial.verdict_reason


def test_without_progress_everything_is_partial(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=40)[0], matured_ts=0)
    found = report(store_engine, "first")
    assert (found.partial, found.verdict) == (True, "refused")
    assert found.result("ctr", "treatment").p_fixed is not None


def test_mixed_currencies_are_not_added_up(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    foreign = make_session("other", "c00000", arm=sessions[0].assignment[0].arm, currency="USD")
    fill(store_engine, [*sessions, foreign])
    found = report(store_engine, "first")
    assert (found.result("gmv", "treatment").mean, found.result("gmv", "treatment").reason) == (None, "mixed_currency")
    assert found.result("ctr", "treatment").p_fixed is not None
    assert any("EUR, USD" in note for note in found.caveats)


def test_sessions_without_a_currency_and_without_money_fit_any_other(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    unknown = make_session("other", "c00000", arm=sessions[0].assignment[0].arm, currency="XXX")
    fill(store_engine, [*sessions, unknown])
    found = report(store_engine, "first")
    assert found.currency == "EUR"
    assert found.result("gmv", "treatment").reason is None
    assert not any("several currencies" in note for note in found.caveats)


def test_a_line_in_another_currency_is_named(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    arm, lines = sessions[0].assignment[0].arm, [purchase("t", 1, 900, currency="CHF")]
    fill(store_engine, [*sessions, make_session("other", "c00000", arm=arm, lines=lines)])
    found = report(store_engine, "first")
    assert found.result("gmv", "treatment").reason == "mixed_currency"
    assert any("(CHF, EUR)" in note for note in found.caveats)


def test_clients_in_two_arms_are_left_out(store_engine: Engine) -> None:
    sessions, _ = generate(seed=18, num_clients=60)
    moved = [
        make_session(f"again{index}", f"m{index}", arm=arm, impression_ts=10 + index, lines=[purchase("t", 1, 10**9)])
        for index, arm in ((0, "control"), (0, "treatment"))
    ]
    moved[1].query_id = "again1"
    fill(store_engine, [*sessions, *moved])
    found = report(store_engine, "first")
    assert sum(count.multi_arm for count in found.counts) == 1
    assert sum(count.analysed for count in found.counts) == 60
    assert next(check for check in found.checks if check.check_name == "multi_arm").status == "alert"
    assert sum(count.gross_minor for count in found.counts) < 10**9
