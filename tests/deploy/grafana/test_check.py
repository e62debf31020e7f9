"""Every query of both dashboards on real data sources, with the harness that the demo's test uses too."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from sqlalchemy import Engine, insert

from abtest.experiment import Arm
from abtest.fact_writer import FactWriter
from abtest.ramp_plan import Ramp, RampPlan
from abtest.ramp_store import RampStore
from abtest.sink import SinkMetrics
from abtest.store import ExperimentStore
from abtest.tables import health, looks, results
from deploy.grafana import generate
from serving.metrics import Metrics
from stream import db
from stream.agents.metrics import JoinMetrics
from stream.errors import ConfigError, ShelfwiseError, StoreError
from stream.schemas import topics
from stream.schemas.outcomes import OUTCOMES
from stream.schemas.session import Progress
from tests.harness.grafana import check, queries
from tests.harness.prometheus import SCRAPE_S, find_prometheus, prometheus
from tests.harness.sessions import click, log_of, make_session, purchase
from tests.harness.stores import new_postgres_store, new_store
from tests.trainer.harness import LINEAGE, feed, make_loop
from tests.trainer.rollout import views
from tests.trainer.session_log import make_log
from trainer.configs import MODEL_PROFILES
from trainer.metrics import LoopCollector
from trainer.rollout.judgement import Evidence
from trainer.rollout.metrics import RolloutMetrics
from trainer.rollout.states import Move
from trainer.versions.registry import Registry

LOOP, EXPERIMENT = (queries.parse(content) for content in generate.rendered().values())
START_TS = 1_767_225_600_000
MINUTE_MS = 60_000
RAMP = Ramp(
    experiment="first", plan=RampPlan(every_ms=1), row_version=1, arms=(), share=0.05, epoch=1, start_ts=START_TS
)
RANGE = check.Range(start=datetime(2025, 12, 1, tzinfo=UTC), end=datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def empty_database(postgres_url: str) -> Iterator[Engine]:
    engine = db.create(new_postgres_store(postgres_url))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def filled_database(postgres_url: str) -> Iterator[Engine]:
    engine = db.create(new_postgres_store(postgres_url))
    try:
        fill(engine)
        yield engine
    finally:
        engine.dispose()


def fill(engine: Engine) -> None:
    """Go through the product's own writers wherever there is one."""
    fill_versions(engine)
    ExperimentStore(engine).create(
        key="first",
        arms=(Arm(name="control", lineage="prm-1", is_control=True), Arm(name="treatment", lineage="armmt-1")),
        now_ts=START_TS,
    )
    RampStore(engine).set_share("first", 0.5, now_ts=START_TS + 300 * MINUTE_MS, reason="smaller", shrink=True)
    writer = FactWriter(engine)
    writer.open({(topics.SESSIONS, 0): 0})
    sessions = [
        msgspec.structs.replace(
            make_session(
                f"q{number}",
                f"c{number % 60}",
                arm="control" if number % 2 else "treatment",
                impression_ts=START_TS + number * MINUTE_MS,
                version=str(1 + number // 60),
                fallback="late" if number % 20 == 0 else None,
                events=[click(f"e{number}", number % 10)] if number % 3 == 0 else [],
                lines=[purchase(f"t{number}", 1, 1_000 + number)] if number % 5 == 0 else [],
            ),
            lineage="prm-1" if number % 2 else "armmt-1",
        )
        for number in range(120)
    ]
    end_ts = START_TS + 200 * MINUTE_MS
    progress = Progress(partition=0, watermark_ts=end_ts, matured_ts=end_ts, now_ts=end_ts, counters={})
    writer.apply(log_of([*sessions, progress]))
    with db.transaction(engine) as connection:
        connection.execute(
            insert(results), [result(look, metric) for look in (1, 2) for metric in ("ctr", "cvr", "gmv")]
        )
        connection.execute(insert(looks).values(look()))
        connection.execute(insert(health), [check_row(look) for look in (1, 2)])


def fill_versions(engine: Engine) -> None:
    registry = Registry(engine)
    for lineage in ("prm-1", "armmt-1"):
        registry.ensure_lineage(lineage, lineage.split("-")[0], "tiny", "0" * 64)
        term = registry.leases.acquire(lineage, "test", START_TS, 1_000_000)
        for version in (1, 2):
            moment_ts = START_TS + version * MINUTE_MS
            artifact = f"{version}{lineage}".ljust(64, "0")
            registry.publish(
                lineage, version, artifact, parent=None, term=term, metrics={}, offsets={}, published_ts=moment_ts
            )
            for status in ("verified", "live"):
                registry.advance(lineage, version, term, to_status=status, why="100 % sound", now_ms=moment_ts)


def result(look: int, metric: str) -> dict[str, object]:
    return {
        "experiment": "first",
        "as_of": START_TS + look * 60 * MINUTE_MS,
        "metric": metric,
        "arm": "treatment",
        "method": "delta",
        "partial": look == 1,
        "n": 30,
        "n_control": 30,
        "mean": 0.11,
        "mean_control": 0.1,
        "lift": 0.1,
        "lo": -0.2,
        "hi": 0.4,
        "p_fixed": 0.5,
        "cs_lo": -0.4,
        "cs_hi": 0.6,
        "cs_p": 1.0,
        "verdict": "keep running",
        "spec_hash": "0" * 64,
    }


def look() -> dict[str, object]:
    return {
        "experiment": "first",
        "arm": "treatment",
        "number": 1,
        "as_of": START_TS + 60 * MINUTE_MS,
        "metric": "cvr",
        "fraction": 0.5,
        "information": 100.0,
        "alpha": 0.05,
        "spent": 0.003,
        "boundary": 2.96,
        "z": 1.0,
        "n": 30,
        "n_control": 30,
        "is_last": False,
        "verdict": "keep running",
        "reason": "",
    }


def check_row(look: int) -> dict[str, object]:
    return {
        "experiment": "first",
        "as_of": START_TS + look * 60 * MINUTE_MS,
        "check_name": "srm",
        "partial": False,
        "stat": 0.1,
        "p": 0.75,
        "status": "ok",
        "detail": "",
    }


def rows(found: list[check.PanelRows], panel: str) -> int:
    return sum(row.rows for row in found if row.panel == panel)


@pytest.mark.postgres
def test_every_sql_panel_gives_rows(filled_database: Engine) -> None:
    found = check.check_postgres(filled_database, EXPERIMENT, RANGE)
    assert [(row.panel, row.error) for row in found if row.error] == []
    assert check.empty_panels(found) == []
    assert len({row.panel for row in found}) == sum(bool(panel.targets) for panel in EXPERIMENT.panels)


@pytest.mark.postgres
def test_sql_panels_give_the_rows_that_were_written(filled_database: Engine) -> None:
    found = check.check_postgres(filled_database, EXPERIMENT, RANGE)
    assert rows(found, "Plan") == 2
    assert rows(found, "Exposed clients") == 2
    assert rows(found, "Scorecard") == 3
    assert rows(found, "Looks") == 1
    assert rows(found, "Lift over time") == 2
    assert rows(found, "Versions") == 4
    assert rows(found, "Sessions") == 2 * 120 // 5
    assert rows(found, "CTR by version") == 2 * 120 // 5
    assert rows(found, "Site: CTR") == rows(found, "Site: GMV per session") == 120 // 5


@pytest.mark.postgres
def test_the_time_range_cuts_series_and_leaves_tables(filled_database: Engine) -> None:
    later = check.Range(start=datetime(2026, 2, 1, tzinfo=UTC), end=datetime(2026, 2, 2, tzinfo=UTC))
    found = check.check_postgres(filled_database, EXPERIMENT, later)
    assert rows(found, "Sessions") == 0
    assert rows(found, "Scorecard") == 3


@pytest.mark.postgres
@pytest.mark.parametrize("name", generate.rendered())
def test_annotations_show_moves_and_ramps(filled_database: Engine, name: str) -> None:
    document = msgspec.json.decode(generate.rendered()[name])
    declared = {variable["name"]: variable["query"] for variable in document["templating"]["list"]}
    found = {}
    for annotation in document["annotations"]["list"]:
        assert annotation["datasource"]["uid"] == "${postgres}"
        assert declared["postgres"] == annotation["datasource"]["type"]
        sql = queries.expand_sql(annotation["target"]["rawSql"], {}, start=RANGE.start, end=RANGE.end)
        with filled_database.connect() as connection:
            answer = connection.exec_driver_sql(sql)
            assert list(answer.keys()) == ["time", "text", "tags"]
            found[annotation["name"]] = [(row.text, row.tags) for row in answer]
    assert len(found["Rollouts"]) >= 12
    assert found["Ramps"] == [("first: step, 0.5 of all clients, smaller", "first,step")]


@pytest.mark.postgres
def test_an_empty_database_leaves_panels_empty_without_errors(empty_database: Engine) -> None:
    found = check.check_postgres(empty_database, EXPERIMENT, RANGE)
    assert {row.error for row in found} == {""}
    assert len(check.empty_panels(found)) == sum(bool(panel.targets) for panel in EXPERIMENT.panels)


@pytest.mark.postgres
def test_a_refused_query_is_reported_and_the_others_still_run(filled_database: Engine) -> None:
    text = generate.rendered()["shelfwise-experiment.json"].replace(b"FROM v_health", b"FROM v_wealth")
    found = check.check_postgres(filled_database, queries.parse(text), RANGE)
    refused = [row for row in found if row.error]
    assert [row.panel for row in refused] == ["Health checks"]
    assert "v_wealth" in refused[0].error
    assert check.empty_panels(found) == ["shelfwise-experiment: Health checks"]


def test_other_databases_are_refused(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(ConfigError, match="not sqlite"):
        check.check_postgres(engine, EXPERIMENT, RANGE)
    engine.dispose()


def test_an_unreachable_database_is_named() -> None:
    engine = db.create("postgresql://reader:secret@127.0.0.1:1/none")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/none") as caught:
        check.check_postgres(engine, EXPERIMENT, RANGE)
    assert "secret" not in str(caught.value)
    engine.dispose()


def serve_registry(stack: ExitStack, registry: CollectorRegistry) -> int:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return int(server.server_port)


class Processes:
    """The real metrics of all five kinds of process, with numbers that go up."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.join = JoinMetrics()
        self.serving = Metrics()
        sink_registry, trainer_registry, controller_registry = (CollectorRegistry() for _ in range(3))
        self.controller = RolloutMetrics(controller_registry)
        self.sink = SinkMetrics(sink_registry)
        engine = db.create(new_store(folder / "trainer.db"))
        stack.callback(engine.dispose)
        # ARMMT has all the metrics that a model may have.
        lineage = replace(LINEAGE, model="armmt", config=MODEL_PROFILES["armmt"]["tiny"])
        loop = make_loop(folder, engine, lineage=lineage)
        feed(loop, make_log(120))
        trainer_registry.register(LoopCollector("test", loop, lambda: 5.0))
        self.jobs = {
            "shelfwise-joiner": [serve_registry(stack, self.join.registry)],
            "shelfwise-serving": [serve_registry(stack, self.serving.registry)],
            "shelfwise-sink": [serve_registry(stack, sink_registry)],
            "shelfwise-controller": [serve_registry(stack, controller_registry)],
            "shelfwise-trainer": [serve_registry(stack, trainer_registry)],
        }
        self.step = 0

    def work(self) -> None:
        self.step += 1
        counters = dict.fromkeys((*OUTCOMES, "too_late", "no_click"), 10 * self.step)
        self.join.count(counters, dict.fromkeys(counters, 10 * (self.step - 1)))
        for topic in (topics.IMPRESSIONS, topics.CLICKS, topics.CONVERSIONS):
            self.join.events.labels(topic).inc(10)
            self.join.lag.labels(topic, "0").set(3)
        self.join.sessions.labels("close").inc(10)
        self.join.watermark_age.labels("0").set(4)
        self.join.state_bytes.labels("hot").set(1_000)
        self.join.open_sessions.set(7)
        self.join.emit_delay.observe(0.02)
        self.join.rebalances.inc()
        for arm in ("control", "treatment"):
            self.serving.requests.labels(arm, "none").inc(9)
            self.serving.latency.labels(arm).observe(0.004)
        self.serving.requests.labels("control", "late").inc()
        self.serving.count_candidates({("item", "own"): 8, ("item", "cold"): 1})
        self.serving.version.labels("test").set(self.step)
        self.serving.version_changes.labels("test").inc()
        self.serving.impressions.labels("emitted").inc(10)
        self.serving.impressions.labels("delivered").inc(9)
        for part in ("live", "canary", "control"):
            self.serving.version_requests.labels("prm", "3", part, "none").inc(9)
        self.controller.observe(
            views.lineage("superseded", "live", "canary"), Evidence(), {3: views.all_gates(system="wait")}
        )
        self.controller.count("prm", Move(version=3, from_status="verified", to_status="canary", why=""))
        self.controller.observe_ramps([RAMP])
        self.sink.sessions.inc(10)
        self.sink.lag.labels("0").set(2)


@pytest.fixture(scope="module")
def prometheus_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        find_prometheus()
    except RuntimeError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        processes = Processes(stack, folder)
        processes.work()
        server = stack.enter_context(prometheus(folder, processes.jobs))
        # Rates need numbers that rise between two scrapes.
        for times in (2, 4):
            server.wait_until_scraped(len(processes.jobs), times)
            processes.work()
        server.wait_until_scraped(len(processes.jobs), 6)
        yield server.url


def recent() -> check.Range:
    now = datetime.now(UTC)  # noqa: TID251 - Prometheus stamps with the wall clock
    return check.Range(start=now - timedelta(minutes=1), end=now, scrape_s=SCRAPE_S)


@pytest.mark.slow
def test_every_promql_panel_gives_series(prometheus_url: str) -> None:
    found = check.check_prometheus(prometheus_url, LOOP, recent())
    assert [(row.panel, row.error) for row in found if row.error] == []
    assert check.empty_panels(found) == []
    assert len({row.panel for row in found}) == sum(bool(panel.targets) for panel in LOOP.panels)


@pytest.mark.slow
def test_promql_panels_split_by_their_labels(prometheus_url: str) -> None:
    found = check.check_prometheus(prometheus_url, LOOP, recent())
    assert rows(found, "Processes answering") == 5
    assert rows(found, "Events by outcome") == len(OUTCOMES)
    assert rows(found, "Events in by topic") == 3
    assert rows(found, "Latency") == 3
    assert rows(found, "p99 latency by arm") == 2
    assert rows(found, "Live and canary") == 2
    assert rows(found, "Gates") == 7
    assert rows(found, "Fallbacks by slice") == 3
    assert rows(found, "Freshness") == 2


def test_every_metric_of_the_dashboard_is_exported(prometheus_url: str) -> None:
    """A panel with `or vector(0)` would hide a misspelt name."""
    with urllib.request.urlopen(f"{prometheus_url}/api/v1/label/__name__/values", timeout=10) as response:
        exported = set(msgspec.json.decode(response.read())["data"])
    used = {name for query in queries.promql_panels(LOOP) for name in re.findall(r"shelfwise_\w+", query.text)}
    assert len(used) > 20
    assert used <= exported


def test_a_query_that_prometheus_refuses_is_reported(prometheus_url: str) -> None:
    text = generate.rendered()["shelfwise-loop.json"].replace(b"sum(shelfwise_join_open_sessions)", b"sum(by)(x)")
    found = check.check_prometheus(prometheus_url, queries.parse(text), recent())
    refused = [row for row in found if row.error]
    assert [row.panel for row in refused] == ["Open sessions"]
    assert "parse error" in refused[0].error


def test_a_prometheus_that_is_not_there_is_named() -> None:
    with pytest.raises(ShelfwiseError, match=r"127\.0\.0\.1:1"):
        check.check_prometheus("http://127.0.0.1:1", LOOP, recent())
    with pytest.raises(ConfigError, match="expected http"):
        check.check_prometheus("file:///etc", LOOP, recent())
