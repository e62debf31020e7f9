from dataclasses import replace

import pytest
from sqlalchemy import Engine, Table, func, select

from abtest import retention
from abtest.experiment import Arm
from abtest.plan import Plan
from abtest.rebuild import rebuild
from abtest.report import decide, report
from abtest.retention import Retention
from abtest.store import ExperimentStore
from abtest.tables import (
    arm_sums,
    client_orders,
    client_sums,
    exposures,
    final_reports,
    health,
    looks,
    results,
    session_facts,
    traffic_minutes,
    unlinked_lines,
)
from stream import db
from stream.errors import ConfigError
from stream.schemas.times import DAY_MS
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.generated_facts import ARMS, LAST_TS, append, fill, generate
from tests.harness.sessions import make_session, unlinked

END_TS = 900_000
DUE_TS = END_TS + 28 * DAY_MS
PLAN = Plan(min_buyers=5)
on_sqlite = pytest.mark.parametrize("store_engine", ["sqlite"], indirect=True)


def count(engine: Engine, table: Table) -> int:
    with db.read(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def queries(engine: Engine) -> set[str]:
    with db.read(engine) as connection:
        return set(connection.execute(select(session_facts.c.query_id)).scalars())


class Removals:
    """A retention of 28 days, the rows of its transactions, and its pauses, of which one can stop it."""

    def __init__(self, engine: Engine, *, history_days: float = 28.0, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.rows: list[int] = []
        self.pauses: list[float] = []
        self.retention = Retention(
            engine,
            keep_facts_days=28.0,
            keep_history_days=history_days,
            pause=self._pause,
            on_removed=lambda _table, number: self.rows.append(number),
        )

    def _pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return len(self.pauses) == self.stop_after


def stopped(engine: Engine) -> None:
    """Fill a stopped experiment that took its look, with all windows closed."""
    sessions, _ = generate(seed=15, num_clients=80)
    fill(engine, [*sessions, unlinked("c00001", "u-1")], plan=PLAN)
    ExperimentStore(engine).stop("first", now_ts=END_TS)
    decide(engine, "first")


def test_verdict_and_numbers_stay_when_the_facts_go(store_engine: Engine) -> None:
    stopped(store_engine)
    append(store_engine, [], matured_ts=LAST_TS + 1, watermark_ts=DUE_TS)
    decided = report(store_engine, "first")
    assert decided.looks
    assert all(count(store_engine, table) for table in (*FACT_TABLES, client_sums, arm_sums))
    counted = (session_facts, client_orders, unlinked_lines, exposures, client_sums, arm_sums)
    num_rows = sum(count(store_engine, table) for table in counted)
    removals = Removals(store_engine)
    (final,) = removals.retention.apply()
    assert [count(store_engine, table) for table in (*FACT_TABLES, client_sums, arm_sums)] == [0] * 7
    assert sum(removals.rows) >= num_rows
    assert replace(final, caveats=decided.caveats) == decided
    assert final.caveats[:-1] == decided.caveats
    assert "were removed" in final.caveats[-1]
    for again in (report(store_engine, "first"), report(store_engine, "first", partial=True)):
        assert again == final
    assert decide(store_engine, "first") == final
    assert count(store_engine, looks) == len(decided.looks)
    with pytest.raises(ConfigError, match="its facts were removed"):
        rebuild(store_engine, "first", pause=lambda _seconds: None)
    assert Removals(store_engine).retention.apply() == ()


@on_sqlite
def test_monitoring_results_go_but_for_the_last(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=80)[0], matured_ts=3_000, plan=PLAN)
    report(store_engine, "first")
    ExperimentStore(store_engine).stop("first", now_ts=END_TS)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=DUE_TS)
    Removals(store_engine).retention.apply()
    last = report(store_engine, "first")
    assert (count(store_engine, results), count(store_engine, health)) == (len(last.results), len(last.checks))
    with db.read(store_engine) as connection:
        assert set(connection.execute(select(results.c.as_of)).scalars()) == {last.as_of}


@on_sqlite
@pytest.mark.parametrize(
    ("matured_ts", "watermark_ts"),
    [
        pytest.param(LAST_TS, DUE_TS - 1, id="one millisecond early"),
        pytest.param(END_TS - 1, DUE_TS, id="with an open window"),
    ],
)
def test_facts_stay_until_they_are_due_in_event_time(store_engine: Engine, matured_ts: int, watermark_ts: int) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0], matured_ts=3_000, plan=PLAN)
    ExperimentStore(store_engine).stop("first", now_ts=END_TS)
    append(store_engine, [], matured_ts=matured_ts, watermark_ts=watermark_ts)
    before = [count(store_engine, table) for table in FACT_TABLES]
    removals = Removals(store_engine)
    assert removals.retention.apply() == ()
    assert [count(store_engine, table) for table in FACT_TABLES] == before
    assert count(store_engine, final_reports) == 0


@on_sqlite
def test_facts_of_a_running_experiment_stay(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0], plan=PLAN)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=100 * DAY_MS)
    before = [count(store_engine, table) for table in FACT_TABLES]
    Removals(store_engine).retention.apply()
    assert [count(store_engine, table) for table in FACT_TABLES] == before


def test_a_running_experiment_keeps_its_past(store_engine: Engine) -> None:
    start_ts, attribution_ms = 90 * DAY_MS, 1_000 * PLAN.attribution_s
    past_ts = start_ts - 2 * DAY_MS - attribution_ms
    fill(store_engine, [make_session("ended", "c1", impression_ts=1_000)], plan=PLAN)
    ExperimentStore(store_engine).stop("first", now_ts=END_TS)
    ExperimentStore(store_engine).create(
        key="second",
        arms=[Arm(name="a", lineage="prm-1", is_control=True), ARMS[1]],
        now_ts=start_ts,
        plan=replace(PLAN, cuped_days=2.0),
    )
    nowhere = [
        make_session("past", "c2", arm=None, impression_ts=past_ts),
        make_session("before", "c2", arm=None, impression_ts=past_ts - 1),
    ]
    append(store_engine, nowhere, matured_ts=start_ts, watermark_ts=start_ts + 80 * DAY_MS)
    Removals(store_engine).retention.apply()
    assert queries(store_engine) == {"past"}
    assert count(store_engine, exposures) == 0


@on_sqlite
def test_facts_of_clients_in_no_experiment_stay_as_history(store_engine: Engine) -> None:
    now_ts = 50 * DAY_MS
    sessions = [make_session(f"q{days}", "c1", arm=None, impression_ts=now_ts - days * DAY_MS) for days in (9, 10, 11)]
    sessions.append(make_session("just older", "c1", arm=None, impression_ts=now_ts - 10 * DAY_MS - 1))
    fill(store_engine, [], plan=PLAN)
    ExperimentStore(store_engine).stop("first", now_ts=END_TS)
    append(store_engine, sessions, matured_ts=now_ts, watermark_ts=now_ts)
    Removals(store_engine, history_days=10.0).retention.apply()
    assert queries(store_engine) == {"q9", "q10"}
    with db.read(store_engine) as connection:
        minutes = connection.execute(select(traffic_minutes.c.minute_ts)).scalars()
        assert set(minutes) == {now_ts - 9 * DAY_MS, now_ts - 10 * DAY_MS}


@on_sqlite
def test_a_removal_goes_on_where_it_ended(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_CHUNK", 50)
    stopped(store_engine)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=DUE_TS)
    before = count(store_engine, session_facts)
    first = Removals(store_engine, stop_after=2)
    (final,) = first.retention.apply()
    assert first.rows == [50, 50]
    assert count(store_engine, session_facts) == before - 100
    assert report(store_engine, "first") == final
    rest = Removals(store_engine)
    assert rest.retention.apply() == ()
    assert [count(store_engine, table) for table in FACT_TABLES] == [0] * 5
    assert max(rest.rows) == 50
    assert len(rest.pauses) == len(rest.rows)
    assert min(rest.pauses) > 0.025, "SQLite asks again for its lock every 25 ms at first"


@on_sqlite
def test_a_call_removes_a_bounded_number_of_rows(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_MAX_ROWS", 60)
    stopped(store_engine)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=DUE_TS)
    before = count(store_engine, session_facts)
    Removals(store_engine).retention.apply()
    assert count(store_engine, session_facts) == before - 60


@on_sqlite
def test_the_sink_keeps_no_sums_of_an_experiment_without_facts(store_engine: Engine) -> None:
    stopped(store_engine)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=DUE_TS)
    (final,) = Removals(store_engine).retention.apply()
    # A sink that reads the topic again writes facts again, which the next round removes.
    append(store_engine, generate(seed=15, num_clients=5)[0], matured_ts=LAST_TS, watermark_ts=DUE_TS)
    assert count(store_engine, client_sums) == count(store_engine, arm_sums) == 0
    assert report(store_engine, "first") == final
    Removals(store_engine).retention.apply()
    assert count(store_engine, session_facts) == 0
