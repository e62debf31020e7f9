import threading

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select

from abtest import pages, watch
from abtest.plan import Plan
from abtest.ramp_plan import RampPlan
from abtest.ramp_store import RampStore
from abtest.results import Report
from abtest.retention import Retention
from abtest.store import ExperimentStore
from abtest.tables import health, looks, results, session_facts
from abtest.watch import Watcher, WatchMetrics, WatchReadiness
from stream import db
from stream.errors import StoreError
from tests.harness.generated_facts import LAST_TS, append, fill, generate

pytestmark = pytest.mark.slow


def count(engine: Engine, table: object) -> int:
    with db.read(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def test_a_round_fills_the_tables_of_dashboards_and_takes_no_look(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=200)[0], plan=Plan(min_buyers=20))
    watcher = Watcher(store_engine)
    (found,) = watcher.round()
    assert (found.experiment, found.looks) == ("first", ())
    num_results, num_checks = count(store_engine, results), count(store_engine, health)
    assert num_results > 0
    assert num_checks == len(found.checks)
    watcher.round()
    assert (count(store_engine, results), count(store_engine, health)) == (num_results, num_checks)
    assert count(store_engine, looks) == 0


def test_a_round_stores_the_health_of_planned_ramps(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=200)[0], plan=Plan(min_buyers=20))
    ramps = RampStore(store_engine)
    ramps.set_share("first", 0.5, now_ts=LAST_TS + 1, reason="smaller", shrink=True)
    ramps.plan("first", RampPlan(steps=(1.0,), every_ms=1), now_ts=LAST_TS + 2, actor="ada")
    Watcher(store_engine).round()
    (planned,) = ramps.ramps()
    assert planned.as_of == LAST_TS + 7
    assert "guardrail" in {check.check_name for check in planned.checks}


def test_a_stopped_experiment_is_followed_until_its_windows_close(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=200)
    fill(store_engine, sessions, matured_ts=3_000, plan=Plan(min_buyers=20))
    ExperimentStore(store_engine).stop("first", now_ts=5_000)
    watcher = Watcher(store_engine)
    assert [found.complete for found in watcher.round()] == [False]
    append(store_engine, [], matured_ts=LAST_TS)
    assert [found.complete for found in watcher.round()] == [True]
    assert watcher.round() == []


@pytest.mark.parametrize("store_engine", ["sqlite"], indirect=True)
def test_a_round_removes_old_facts_and_the_page_says_so(store_engine: Engine) -> None:
    registry = CollectorRegistry()
    metrics = WatchMetrics(registry)
    removal = Retention(
        store_engine,
        keep_facts_days=1.0,
        keep_history_days=1.0,
        pause=lambda _seconds: False,
        on_removed=lambda table, number: metrics.removed.labels(table).inc(number),
    )
    fill(store_engine, generate(seed=15, num_clients=20)[0], plan=Plan(min_buyers=20))
    num_facts = count(store_engine, session_facts)
    ExperimentStore(store_engine).stop("first", now_ts=5_000)
    append(store_engine, [], matured_ts=LAST_TS, watermark_ts=2 * 86_400_000)
    Watcher(store_engine, removal).round()
    assert "were removed" in (pages.page(store_engine, "first") or "")
    removed = registry.get_sample_value("shelfwise_watch_removed_rows_total", {"table": "session_facts"})
    assert removed == num_facts > 0
    assert count(store_engine, session_facts) == 0


class Rounds:
    """Rounds of which the second fails, and a clock; the third round stops the loop."""

    def __init__(self, stopping: threading.Event) -> None:
        self.number, self.now_s, self.stopping = 0, 0.0, stopping
        self.waits: list[float] = []

    def round(self) -> list[Report]:
        self.number += 1
        self.now_s += 2.0
        if self.number == 2:
            raise StoreError("the database is away")
        if self.number == 3:
            self.stopping.set()
        return []


def test_a_database_that_is_away_is_asked_again(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, readiness = threading.Event(), WatchReadiness()
    rounds = Rounds(stopping)
    reasons: list[str | None] = []

    def wait(seconds: float | None = None) -> bool:
        reasons.append(readiness.reason)
        rounds.waits.append(seconds or 0.0)
        return stopping.is_set()

    monkeypatch.setattr(watch, "Watcher", lambda _engine, _retention: rounds)
    monkeypatch.setattr(stopping, "wait", wait)
    registry = CollectorRegistry()
    watch.run(
        store_engine,
        stopping,
        60.0,
        random=lambda: 0.0,
        metrics=WatchMetrics(registry),
        readiness=readiness,
        monotonic=lambda: rounds.now_s,
    )
    assert rounds.waits == [58.0, 0.25, 58.0]
    assert reasons == [None, "the database is away", None]
    assert registry.get_sample_value("shelfwise_watch_rounds_total") == 2
