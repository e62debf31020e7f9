import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar.testing import TestClient
from prometheus_client.parser import text_string_to_metric_families

from abtest import pages
from serving.http import openapi
from serving.http.app import create
from serving.ranking.service import Service
from serving.settings import ServingSettings
from stream import db
from tests.serving.live import wait_until
from tests.serving.world import START_MS, World, body, request, scores_of, spooled
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.files import write_pages
from trainer.annotation.pages import page_id, rows_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.go_live("base", 1, model="prm")
    made.go_live("armmt", 1, model="armmt")
    made.experiment()
    return made


@pytest.fixture
def service(world: World) -> Service:
    made = world.service(ServingSettings(deadline_ms=60_000.0, trust_event_ts=True))
    made.poll()
    return made


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:  # type: ignore[type-arg]
    with TestClient(create(service)) as made:
        yield made


def test_each_arm_is_scored_by_its_lineage(client: TestClient, world: World, service: Service) -> None:  # type: ignore[type-arg]
    arms = set()
    for number in range(6):
        asked = body(f"c-{number}", event_ts=START_MS, num_candidates=33)
        answer = client.post("/v1/rank", json=asked).json()
        arms.add(answer["arm"])
        lineage = {"control": "base", "treatment": "armmt"}[answer["arm"]]
        assert (answer["lineage"], answer["version"], answer["fallback"]) == (lineage, "1", None)
        live = world.registry.live(lineage)
        assert live is not None
        expected = scores_of(world, live.artifact, request(**asked), service.catalogue)  # type: ignore[arg-type]
        scored = [item for item in answer["items"] if item["score"] is not None]
        assert {i["item_id"]: i["score"] for i in scored} == pytest.approx(expected, abs=1e-5)
        assert [i["score"] for i in scored] == sorted((i["score"] for i in scored), reverse=True)
        assert [i["item_id"] for i in answer["items"][30:]] == ["i-30", "i-31", "i-32"]
    assert arms == {"control", "treatment"}


def test_refusals_have_a_status_and_a_problem(client: TestClient) -> None:  # type: ignore[type-arg]
    wrong = client.post("/v1/rank", json=body(currency="euro"))
    assert (wrong.status_code, wrong.json()["field"], wrong.json()["value"]) == (400, "currency", '"euro"')
    large = client.post("/v1/rank", content=b" " * (256 * 1024 + 1))
    assert (large.status_code, "error" in large.json()) == (413, True)
    chunked = client.post("/v1/rank", content=iter([b" " * 65_536] * 5))
    assert chunked.status_code == 413
    assert client.get("/v1/rank").status_code == 405


@pytest.mark.parametrize("path", ["/", "/nothing", "/livezz", "/readyz/x", "/metrics.txt", "/v1", "/openapi.yaml"])
def test_an_unknown_path_is_not_found(client: TestClient, path: str) -> None:  # type: ignore[type-arg]
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, "Not Found")


def test_health_and_metrics(client: TestClient) -> None:  # type: ignore[type-arg]
    assert client.get("/livez").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["versions"]) == (200, {"base": "1", "armmt": "1"})
    client.post("/v1/rank", json=body("c-1"))
    text = client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(text.text)}
    assert families.keys() >= {
        "shelfwise_serving_requests",
        "shelfwise_serving_latency_seconds",
        "shelfwise_serving_version",
        "shelfwise_serving_version_changes",
        "shelfwise_serving_impressions",
    }
    labels = [s.labels for s in families["shelfwise_serving_requests"].samples if s.name.endswith("_total")]
    assert labels == [{"arm": "control", "fallback": "none"}]
    states = {s.labels["state"] for s in families["shelfwise_serving_impressions"].samples if s.name.endswith("_total")}
    assert states >= {"emitted", "delivered", "spooled", "dropped"}


def test_not_ready_before_the_first_look(world: World) -> None:
    assert world.service().health().status == "starting"


def test_the_document_names_every_route(client: TestClient) -> None:  # type: ignore[type-arg]
    document = client.get(openapi.OPENAPI).json()
    assert document == json.loads(json.dumps(openapi.document()))
    routes = {route.path.replace(":str}", "}") for route in client.app.routes}
    assert routes == set(document["paths"])


def test_the_query_text_leaves_no_trace(client: TestClient, world: World) -> None:  # type: ignore[type-arg]
    client.post("/v1/rank", json=body("c-1", query={"text": "planted-secret-query"}))
    assert "planted-secret-query" not in client.get("/metrics").text
    assert not [
        path for path in world.home.rglob("*") if path.is_file() and b"planted-secret-query" in path.read_bytes()
    ]


def test_before_the_service_is_ready_no_request_is_answered(world: World) -> None:
    service = world.service(ServingSettings(deadline_ms=60_000.0, trust_event_ts=True, poll_s=3_600.0))
    polled = threading.Event()
    poll = service.poll

    def waiting() -> None:
        polled.wait(60.0)
        poll()

    service.poll = waiting  # type: ignore[method-assign]
    with TestClient(create(service)) as client:
        early = client.post("/v1/rank", json=body("c-1", event_ts=START_MS))
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        assert early.json()["error"] == "the service is starting; see /readyz"
        assert client.get("/readyz").status_code == 503
        polled.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        answer = client.post("/v1/rank", json=body("c-1", event_ts=START_MS)).json()
    assert (answer["fallback"], answer["version"]) == (None, "1")
    assert len(spooled(world)) == 1


def test_pages_of_experiments_are_shown_to_people(client: TestClient, world: World) -> None:  # type: ignore[type-arg]
    engine = db.create(world.url)
    key = "exp-1"
    missing = client.get(f"/experiments/{key}")
    assert (missing.status_code, missing.json()["error"]) == (
        404,
        f"experiment '{key}' has no page; `shelfwise abtest watch` writes them",
    )
    pages.write(engine, key, as_of=1, verdict="ship", html="<p>page</p>")
    shown = client.get(f"/experiments/{key}")
    assert (shown.status_code, shown.text) == (200, "<p>page</p>")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    assert f'href="/experiments/{key}"' in client.get("/experiments").text
    engine.dispose()


def test_annotators_get_pages_and_send_grades(world: World, tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    write_pages(path, rows_of(LIST, 1.0, "p100", "red shoes", {}))
    grade = {"page": page_id("q-1", "p100"), "item_id": "i0", "grade": 3, "seconds": 1.5, "event_ts": START_MS}
    with TestClient(create(world.service(ServingSettings(annotation_pages=str(path))))) as client:
        shown = client.get("/annotate")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        offered = client.get("/v1/annotations")
        assert [page["query"] for page in offered.json()["pages"]] == ["red shoes"]
        assert offered.headers["cache-control"] == "no-store"
        wrong = client.post("/v1/annotations", json={"annotator": "ann", "judgements": [{**grade, "grade": 10}]})
        assert (wrong.status_code, wrong.json()["field"], wrong.json()["value"]) == (400, "judgements[0].grade", "10")
        # Without a broker nothing is acknowledged.
        lost = client.post("/v1/annotations", json={"annotator": "ann", "judgements": [grade]})
        assert (lost.status_code, int(lost.headers["retry-after"]) >= 1) == (503, True)
        path.unlink()
        gone = client.get("/v1/annotations")
        assert (gone.status_code, gone.headers["retry-after"]) == (503, "5")


def test_a_service_without_pages_says_so(client: TestClient) -> None:  # type: ignore[type-arg]
    answer = client.get("/v1/annotations")
    assert answer.status_code == 404
    assert "serving.annotation_pages is empty" in answer.json()["error"]
