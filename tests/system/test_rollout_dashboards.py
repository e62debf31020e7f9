"""The row Rollout beside a controller that makes a canary and rolls it back: panels, alerts and annotations (R16)."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from abtest.experiment import Arm
from abtest.ramp_plan import RampPlan
from abtest.ramp_store import RampStore
from deploy.grafana.loop import LOOP
from deploy.grafana.rollout import ANNOTATIONS, ROLLOUT
from deploy.kafka.memory import MemoryBroker
from stream import db
from stream.wall_clock import epoch_ms
from tests.harness.grafana import check, queries
from tests.harness.prometheus import SCRAPE_S, Prometheus, prometheus
from tests.harness.stores import new_postgres_store
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import environment_of, free_port, process
from tests.serving.world import START_MS, World, body, publish
from tests.trainer.rollout.world import GOOD, ServedLineage
from trainer.rollout import changes
from trainer.rollout.slices import CANARY, CONTROL

pytestmark = [pytest.mark.postgres, pytest.mark.system]
NAME = "base"
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yml"
POLICY = {"mode": "gated", "canary_s": "1", "canary_queries": "1000000", "business_sessions": "100"} | {
    "canary_share": "0.3",
    "canary_share_of_all": "0.3",
}
# Their numbers come from a trainer, which the demo's test has.
OF_TRAINER = {
    panel.title for panel in ROLLOUT.panels if all("shelfwise_trainer_" in query.text for query in panel.queries)
}


@contextmanager
def controller(url: str, home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `shelfwise rollout run` with its metrics on this port, and kill it at the end if it still runs."""
    program = [sys.executable, "-c", "from deploy.cli import main; main()", "rollout", "run"]
    child = subprocess.Popen(
        [*program, "--metrics-port", str(port)], env=environment_of(home, url), cwd=Path(__file__).parents[2]
    )
    try:
        wait_ready(f"http://127.0.0.1:{port}")
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def traffic(address: str) -> Iterator[None]:
    """Let clients ask without a pause, once the service is ready."""
    wait_ready(address)
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60.0) as client:
            number = 0
            while not stop.is_set():
                assert client.post("/v1/rank", json=body(f"c-{number % 300}", event_ts=START_MS)).status_code == 200
                number += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60.0)


def verified(world: World, number: int, parent: str) -> None:
    """Publish and verify a version that passes gates 3 to 5."""
    address = publish(world.artifacts, NAME, number)
    term = world.registry.leases.acquire(NAME, "test", START_MS, 10**15)
    world.registry.publish(
        NAME, number, address, parent=parent, term=term, metrics=dict(GOOD), offsets={}, published_ts=epoch_ms()
    )
    world.registry.advance(NAME, number, term, to_status="verified", why="test", now_ms=epoch_ms())


def firing(server: Prometheus, alert: str) -> bool:
    """Return whether an alert fires."""
    return bool(server.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))


def rows_of_panels(server: Prometheus) -> dict[str, int]:
    """Return the series of each panel of the row in the last minutes."""
    now = datetime.now(UTC)  # noqa: TID251 - Prometheus stamps its samples with the clock of this machine
    window = check.Range(start=now - timedelta(minutes=5), end=now, scrape_s=SCRAPE_S)
    (board,) = (each for each in check.dashboards() if each.uid == LOOP.uid)
    titles = {panel.title for panel in ROLLOUT.panels}
    found = dict.fromkeys(titles, 0)
    for each in check.check_prometheus(server.url, board, window):
        if each.panel in titles:
            assert each.error == ""
            found[each.panel] += each.rows
    return found


def annotated(url: str) -> list[str]:
    """Return the texts of the annotations of the last hour."""
    engine, now = db.create(url), datetime.now(UTC)  # noqa: TID251 - commands stamp events with this clock
    found: list[str] = []
    try:
        with engine.connect() as connection:
            for each in ANNOTATIONS:
                target = each["target"]
                assert isinstance(target, dict)
                hours = timedelta(hours=1)
                sql = queries.expand_sql(str(target["rawSql"]), {}, start=now - hours, end=now + hours)
                found += [str(row.text) for row in connection.exec_driver_sql(sql.replace("%", "%%"))]
    finally:
        engine.dispose()
    return found


def test_r16_every_panel_alert_and_annotation_shows_a_canary_that_is_rolled_back(
    postgres_url: str, tmp_path: Path
) -> None:
    url, port, own = new_postgres_store(postgres_url), free_port(), free_port()
    world, address = World(tmp_path, url), f"http://127.0.0.1:{port}"
    first = world.go_live(NAME, 1)
    arms = (Arm(name="control", policy="incoming_order", is_control=True), Arm(name="treatment", lineage=NAME))
    world.experiments.create(key="exp-1", arms=arms, now_ts=START_MS, share=0.5)
    RampStore(world.engine).plan("exp-1", RampPlan(steps=(1.0,), every_ms=10**9), now_ts=epoch_ms(), actor="ada")
    lineage = ServedLineage(world.engine, NAME)
    lineage.command("policy", lambda view: changes.set_policy(view, POLICY, "test"))
    settings = {"trust_event_ts": "true"}
    with (
        MemoryBroker(1) as memory,
        process(tmp_path, memory.broker, port, settings=settings, database=url),
        traffic(address),
        controller(url, tmp_path, own) as controlled,
        prometheus(tmp_path, {"shelfwise-serving": [port], "shelfwise-rollout": [own]}, [RULES]) as server,
    ):
        server.wait_until_scraped(2)
        assert not firing(server, "ShelfwiseRolledBack")
        verified(world, 2, first)
        server.wait_for('shelfwise_rollout_state{version="2", status="canary"}')
        server.wait_for('shelfwise_serving_version_requests_total{slice="canary"} > 10')
        for part, version, orders in ((CANARY, 2, 0), (CONTROL, 1, 1)):
            lineage.search(part, version, at_ts=epoch_ms(), orders=orders)
        wait_until(lambda: lineage.status_of(2) == "rolled_back")
        wait_until(lambda: firing(server, "ShelfwiseRolledBack"))
        server.wait_for(f'shelfwise_rollout_locked{{lineage="{NAME}"}} == 1')
        wait_until(lambda: all(rows for title, rows in rows_of_panels(server).items() if title not in OF_TRAINER))
        texts = annotated(url)
        controlled.kill()
        wait_until(lambda: firing(server, "ShelfwiseRolloutStopped"), 120.0)
    assert any(each.startswith("base 2: canary, gates 1 to 5 passed") for each in texts)
    assert any(each.startswith("base 2: rolled_back, business: ") for each in texts)
    assert any(each.startswith("exp-1: planned, ") for each in texts)
    world.engine.dispose()
