import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from sqlalchemy import Connection, Engine, column, distinct, func, select, table, update
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from abtest import queries
from abtest.experiment import ActiveExperiment, Epoch, Experiment
from abtest.fact_writer import FactWriter
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.report import Report, decide, report
from abtest.store import ExperimentStore
from abtest.tables import exposures, health, looks, results, session_facts, session_orders
from stream.errors import ConfigError
from stream.join.settings import JoinSettings
from stream.schemas import topics
from tests.harness.generated_facts import ARMS, LAST_TS, append, arrays, fill, generate
from tests.harness.sessions import log_of, make_session, purchase, refund

pytestmark = pytest.mark.slow


def facts_by_client(engine: Engine, arm: str) -> dict[str, NDArray[np.float64]]:
    """Sum the raw facts of one arm in Python, apart from the code under test."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(session_facts, exposures.c.arm.label("first_arm"))
            .join(exposures, exposures.c.client_id == session_facts.c.client_id)
            .where(exposures.c.arm == arm)
        ).all()
        orders = connection.execute(
            select(session_facts.c.client_id, func.count(distinct(session_orders.c.transaction_id)))
            .join(session_orders, session_orders.c.query_id == session_facts.c.query_id)
            .group_by(session_facts.c.client_id)
        ).all()
    clients = sorted({row.client_id for row in rows})
    position = {client: index for index, client in enumerate(clients)}
    columns = ("n_items", "clicks", "gross_minor", "refund_minor")
    sums = {name: np.zeros(len(clients)) for name in ("sessions", "orders", *columns)}
    for row in rows:
        sums["sessions"][position[row.client_id]] += 1
        for name in columns:
            sums[name][position[row.client_id]] += row._mapping[name]
    for client, count in orders:
        if client in position:
            sums["orders"][position[client]] += count
    return sums


MEANS = {"gmv": ("gross_minor",), "net_gmv": ("gross_minor", "refund_minor"), "sessions_per_client": ("sessions",)}
RATIOS = {"ctr": ("clicks", "n_items"), "cvr": ("orders", "sessions"), "aov": ("gross_minor", "orders")}


def ratio_by_regression(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """A ratio of sums is the slope of a weighted regression; its sandwich variance, clients apart, is the delta's."""
    bought = below > 0
    fit = sm.WLS(above[bought] / below[bought], np.ones(bought.sum()), weights=below[bought]).fit(cov_type="HC0")
    n, k = len(above), bought.sum()
    assert k <= n
    return float(fit.params[0]), float(fit.cov_params()[0][0]) * n / (n - 1)


def test_numbers_equal_statsmodels_on_the_facts(store_engine: Engine) -> None:
    sessions, truth = generate(seed=11)
    fill(store_engine, sessions)
    found = report(store_engine, "first")
    control, treatment = (facts_by_client(store_engine, arm) for arm in ("control", "treatment"))
    for side, arm in ((control, "control"), (treatment, "treatment")):
        known = arrays(truth, arm)
        for index, name in enumerate(("sessions", "n_items", "clicks", "orders", "gross_minor", "refund_minor")):
            assert side[name].sum() == known[:, index].sum()
    for metric, names in MEANS.items():
        base, arm_values = (
            side[names[0]] - (side[names[1]] if len(names) > 1 else 0.0) for side in (control, treatment)
        )
        compared = CompareMeans(DescrStatsW(arm_values), DescrStatsW(base))
        t, p, df = compared.ttest_ind(usevar="unequal")
        entry = found.result(metric, "treatment")
        assert entry.p_fixed == pytest.approx(p, rel=1e-9)
        assert entry.df == pytest.approx(df, rel=1e-9)
        assert entry.diff == pytest.approx(arm_values.mean() - base.mean(), rel=1e-9)
        assert entry.diff is not None
        assert entry.se is not None
        assert entry.diff / entry.se == pytest.approx(t, rel=1e-9)
        assert (entry.n_control, entry.n) == (len(base), len(arm_values))
    for metric, (above, below) in RATIOS.items():
        (r0, v0), (r1, v1) = (ratio_by_regression(side[above], side[below]) for side in (control, treatment))
        n0, n1 = len(control[above]), len(treatment[above])
        df = (v0 + v1) ** 2 / (v0**2 / (n0 - 1) + v1**2 / (n1 - 1))
        entry = found.result(metric, "treatment")
        assert (entry.mean_control, entry.mean) == pytest.approx((r0, r1), rel=1e-9)
        assert entry.se == pytest.approx(math.sqrt(v0 + v1), rel=1e-9)
        assert entry.p_fixed == pytest.approx(2 * stats.t.sf(abs(r1 - r0) / math.sqrt(v0 + v1), df), rel=1e-8)
        assert entry.lift == pytest.approx(r1 / r0 - 1, rel=1e-9)
    goals = [found.result(metric, "treatment") for metric in ("ctr", "cvr", "gmv")]
    assert [entry.p_adj for entry in goals] == pytest.approx(
        list(multipletests([entry.p_fixed for entry in goals], method="holm")[1])
    )
    ratio = stats.chisquare([len(control["sessions"]), len(treatment["sessions"])])
    assert found.checks[0].p == pytest.approx(ratio.pvalue)


def test_every_number_is_a_row(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=12)[0])
    found = report(store_engine, "first")
    assert report(store_engine, "first") == found
    with store_engine.connect() as connection:
        rows = connection.execute(select(results)).all()
        checks = connection.execute(select(health)).all()
    assert {(row.metric, row.arm) for row in rows} == {(entry.metric, entry.arm) for entry in found.results}
    assert len(rows) == len(found.results)
    for row in rows:
        entry = found.result(row.metric, row.arm)
        assert (row.as_of, row.partial, row.spec_hash) == (found.as_of, False, found.spec_hash)
        stored = {name: value for name, value in asdict(entry).items() if name != "sentence"}
        assert {name: row._mapping[name] for name in stored} == stored
    assert {(row.check_name, row.status) for row in checks} == {
        (check.check_name, check.status) for check in found.checks
    }


def test_unknown_experiment_is_named(store_engine: Engine) -> None:
    with pytest.raises(ConfigError, match="'first' does not exist"):
        report(store_engine, "first")


def test_the_sink_and_serving_go_on_while_a_report_reads(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, _ = generate(seed=20, num_clients=40)
    fill(store_engine, sessions[:-1], matured_ts=LAST_TS)
    read = queries.read
    active: list[ActiveExperiment | None] = []

    def read_while_others_work(
        connection: Connection, experiment: Experiment, epochs: tuple[Epoch, ...], *, partial: bool | None
    ) -> Facts:
        found = read(connection, experiment, epochs, partial=partial)
        sink = FactWriter(store_engine)
        position = sink.open({(topics.SESSIONS, 0): 0})[topics.SESSIONS, 0]
        assert sink.apply(log_of(sessions[-1:], first=position)).num_written == 1
        active.append(ExperimentStore(store_engine).active())
        assert read(connection, experiment, epochs, partial=partial).counts == found.counts
        return found

    monkeypatch.setattr(queries, "read", read_while_others_work)
    counted = report(store_engine, "first").counts
    assert sum(count.sessions for count in counted) == len(sessions) - 1
    assert active[0] is not None


SEVERAL = Plan(looks=3, clients=900, min_buyers=10)


def test_reading_takes_no_look(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=SEVERAL)
    for step in range(5):
        append(store_engine, [], matured_ts=LAST_TS + step, watermark_ts=LAST_TS + 10 + step)
        assert report(store_engine, "first").looks == ()
    with store_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(looks)).scalar_one() == 0


def test_a_look_is_stored_once_for_its_watermark(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=1.0)[0], plan=SEVERAL)
    first = decide(store_engine, "first")
    assert (first.verdict, len(first.looks)) == ("keep running", 1)
    assert decide(store_engine, "first") == first == report(store_engine, "first")
    append(store_engine, [], matured_ts=LAST_TS + 1, watermark_ts=LAST_TS + 10)
    assert [look.number for look in decide(store_engine, "first").looks] == [1, 2]


def test_a_finished_verdict_is_printed_again_unchanged(store_engine: Engine) -> None:
    sessions, _ = generate(seed=13, lift=2.0)
    fill(store_engine, sessions, plan=Plan(min_buyers=20))
    won = decide(store_engine, "first")
    assert won.verdict == "ship"
    ExperimentStore(store_engine).stop("first", now_ts=LAST_TS)
    month_ms = 30 * 86_400_000
    # New clients in one arm: were there a second look, the sample ratio would prevent it.
    strangers = [make_session(f"s{index}", f"s{index}", impression_ts=5_000) for index in range(900)]
    append(store_engine, strangers, matured_ts=LAST_TS + month_ms, watermark_ts=LAST_TS + month_ms)
    for read_again in (report, decide, report):
        found = read_again(store_engine, "first")
        assert found.blocked
        assert (found.verdict, found.verdict_reason, found.looks) == (won.verdict, won.verdict_reason, won.looks)


def test_two_looks_at_once_are_one(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_engine, generate(seed=13, lift=1.0)[0], plan=SEVERAL)
    read = queries.read
    others: list[Report] = []

    def read_while_another_decides(*arguments: Any, **options: Any) -> Facts:
        found = read(*arguments, **options)
        if not others:
            monkeypatch.setattr(queries, "read", read)
            others.append(decide(store_engine, "first"))
        return found

    monkeypatch.setattr(queries, "read", read_while_another_decides)
    found = decide(store_engine, "first")
    assert found.looks == others[0].looks
    assert len(found.looks) == 1


def test_a_preview_hides_no_mature_row(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=Plan(min_buyers=20))
    decide(store_engine, "first")
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=LAST_TS + 50)
    report(store_engine, "first", partial=True)
    latest = table("v_lift_latest", column("verdict"), column("partial"), column("metric"), column("arm"))
    with store_engine.connect() as connection:
        rows = connection.execute(
            select(latest.c.verdict, latest.c.partial).where(latest.c.metric == "cvr", latest.c.arm == "treatment")
        ).all()
    assert [(verdict, bool(partial)) for verdict, partial in rows] == [("ship", False)]


def test_the_looks_of_a_view_are_those_of_the_report(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=13, lift=2.0)[0], plan=Plan(min_buyers=20))
    (look,) = decide(store_engine, "first").looks
    view = table("v_looks", column("boundary"), column("verdict"), column("p"))
    with store_engine.connect() as connection:
        (row,) = connection.execute(select(view)).all()
    assert (row.boundary, row.verdict, row.p) == (look.boundary, look.verdict, look.p)
    # Read as an interval, a set outside of its roots would hold what it excludes: it has no bounds.
    for name, kind, bound in (("looks", "set_kind", "lo"), ("results", "cs_kind", "cs_lo")):
        view = table("v_looks" if name == "looks" else "v_lift_latest", column(bound), column("metric"), column("arm"))
        shown = select(view.c[bound]).where(view.c.metric == "cvr", view.c.arm == "treatment")
        with store_engine.begin() as connection:
            assert connection.execute(shown).scalar_one() is not None
            connection.execute(update(table(name, column(kind))).values({kind: "outside"}))
            assert connection.execute(shown).scalar_one() is None


def test_returns_turn_a_gain_into_a_loss_and_no_verdict_comes_before_their_window(store_engine: Engine) -> None:
    random = np.random.default_rng(4)
    sold, returned = [], []
    for index in range(1_000):
        arm = "control" if index % 2 else "treatment"
        bought = random.random() < (0.3 if arm == "control" else 0.45)
        lines = [purchase(f"t{index}", 1, 1_000)] if bought else []
        sold.append(make_session(f"q{index}", f"c{index}", arm=arm, lines=lines))
        if bought and arm == "treatment" and random.random() < 0.6:
            lines = [*lines, refund(f"t{index}", 1, 1_000)]
            returned.append(make_session(f"q{index}", f"c{index}", arm=arm, lines=lines, revision=1))
    plan = Plan(primary="net_gmv", goals=("net_gmv", "gmv"), refund_s=604_800)
    assert plan.refund_s == JoinSettings().refund_s
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0, plan=plan)
    append(store_engine, sold, matured_ts=LAST_TS)
    early = decide(store_engine, "first")
    assert (early.verdict, early.verdict_reason, early.looks) == ("keep running", "refund windows are still open", ())
    assert early.result("net_gmv", "treatment").p_fixed is None
    assert (early.result("gmv", "treatment").lift or 0.0) > 0.2
    append(store_engine, returned, matured_ts=LAST_TS + 1_000 * plan.refund_s, watermark_ts=LAST_TS + 10**9)
    settled = decide(store_engine, "first")
    assert settled.verdict == "do not ship"
    assert settled.verdict_reason.startswith("net GMV is lower")
