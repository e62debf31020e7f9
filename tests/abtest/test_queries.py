import pytest
from sqlalchemy import Engine

from abtest.fact_writer import FactWriter
from abtest.plan import Plan
from abtest.report import decide, report
from abtest.store import ExperimentStore
from stream.schemas import topics
from tests.harness.generated_facts import ARMS, LAST_TS, append, fill, generate
from tests.harness.sessions import log_of, make_session, purchase, unlinked

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
    assert (partial.verdict, partial.partial) == ("keep running", True)
    assert "windows are still open" in partial.verdict_reason


def test_without_progress_everything_is_partial(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=40)[0], matured_ts=0)
    found = report(store_engine, "first")
    assert (found.partial, found.verdict) == (True, "keep running")
    assert found.result("ctr", "treatment").p_fixed is not None


def test_mixed_currencies_are_not_added_up(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    lines = [purchase("t", 1, 900, currency="USD")]
    foreign = make_session("other", "c00000", arm=sessions[0].assignment[0].arm, currency="USD", lines=lines)
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


def test_a_purchase_without_a_click_moves_gmv_and_not_clicked_gmv(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    fill(store_engine, sessions)
    before = report(store_engine, "first")
    arm = sessions[0].assignment[0].arm
    append(store_engine, [unlinked("c00000", "u1", 60_000, event_ts=LAST_TS - 9)], matured_ts=LAST_TS)
    after = report(store_engine, "first")
    for metric, change in (("gmv", 60_000), ("clicked_gmv", 0), ("net_gmv", 60_000), ("orders_per_client", 1)):
        old, new = before.result(metric, arm), after.result(metric, arm)
        assert old.mean is not None
        assert new.mean == pytest.approx(old.mean + change / new.n)
    assert after.result("cvr", arm).mean == before.result("cvr", arm).mean


def test_foreign_orders_without_a_click_are_strays(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=60)
    fill(store_engine, [*sessions, unlinked("c00000", "u1", 900, currency="USD", event_ts=LAST_TS - 9)])
    found = report(store_engine, "first")
    assert found.result("gmv", "treatment").reason == "mixed_currency"
    assert any("EUR, USD" in note for note in found.caveats)


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


def test_one_foreign_session_of_many_is_an_alert_and_leaves_money_defined(store_engine: Engine) -> None:
    sessions, _ = generate(seed=17, num_clients=300)
    lines = [purchase("t", 1, 900, currency="USD")]
    foreign = make_session("other", "c00000", arm=sessions[0].assignment[0].arm, currency="USD", lines=lines)
    fill(store_engine, [*sessions, foreign], plan=Plan(primary="gmv", min_buyers=20))
    found = decide(store_engine, "first")
    assert next(check for check in found.checks if check.check_name == "currency").status == "alert"
    assert found.result("gmv", "treatment").p_fixed is not None
    assert len(found.looks) == 1


def test_money_after_refunds_waits_for_the_refund_window(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=100)
    plan = Plan(refund_s=1, primary="net_gmv", goals=("net_gmv", "cvr"), min_buyers=5)
    halfway = sessions[len(sessions) // 2].impression_ts
    fill(store_engine, sessions, matured_ts=halfway + 999, plan=plan)
    found = report(store_engine, "first")
    settled = [session for session in sessions if session.impression_ts < halfway]
    assert found.result("net_gmv", "treatment").n < found.result("gmv", "treatment").n
    assert found.result("net_gmv", "treatment").n + found.result("net_gmv", "treatment").n_control == len(
        {session.client_id for session in settled}
    )
    append(store_engine, [], matured_ts=sessions[0].impression_ts + 990, watermark_ts=LAST_TS + 9)
    early = report(store_engine, "first")
    assert early.result("net_gmv", "treatment").reason == "refund_window_open"
    assert early.result("net_gmv", "treatment").mean is None
    assert "refund windows are still open" in decide(store_engine, "first").verdict_reason


def test_a_stop_freezes_the_numbers(store_engine: Engine) -> None:
    sessions, _ = generate(seed=13, lift=2.0)
    end_ts = sessions[-1].impression_ts
    fill(store_engine, sessions, plan=Plan(min_buyers=20))
    ExperimentStore(store_engine).stop("first", now_ts=end_ts)
    before = report(store_engine, "first")
    other = {"control": "treatment", "treatment": "control"}
    foreign = [
        *(make_session(f"f{index}", f"foreign{index}", impression_ts=end_ts + 1 + index) for index in range(60)),
        make_session(
            "again", sessions[0].client_id, arm=other[sessions[0].assignment[0].arm], impression_ts=end_ts + 99
        ),
    ]
    month_ms = 30 * 86_400_000
    append(store_engine, foreign, matured_ts=LAST_TS + month_ms, watermark_ts=LAST_TS + 2 * month_ms)
    after = report(store_engine, "first")
    assert (after.results, after.counts, after.verdict) == (before.results, before.counts, before.verdict)
    frozen_ts = end_ts + Plan().attribution_s * 1_000
    assert (after.as_of, before.as_of) == (frozen_ts, LAST_TS + 7)
    assert "61 came after the end" in next(check.detail for check in after.checks if check.check_name == "epoch")


def test_a_demand_for_mature_sessions_counts_none_before_there_are_any(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    writer = FactWriter(store_engine)
    writer.open({(topics.SESSIONS, 0): 0})
    writer.apply(log_of(generate(seed=15, num_clients=20)[0]))
    assert sum(count.sessions for count in report(store_engine, "first", partial=False).counts) == 0
    assert sum(count.sessions for count in report(store_engine, "first").counts) > 0
