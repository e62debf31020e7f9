import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from litestar.testing import TestClient
from schemathesis.checks import not_a_server_error, response_schema_conformance, status_code_conformance

from serving import run
from serving.http import openapi
from serving.http.app import create
from serving.metrics import Metrics
from serving.outbox.collector import MAX_PAYLOADS, BusyError, Collector
from serving.outbox.delivery import Delivery
from serving.settings import ServingSettings
from stream import db
from stream.adapters import Options
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import decode, topics
from stream.schemas.events import Click, encode
from stream.schemas.records import ProducerRecord
from tests.serving.live import live
from tests.serving.world import START_MS, World

CLICK = Click(
    event_id="e-1",
    event_ts=START_MS,
    client_id="c-1",
    source="test",
    action_name="click",
    query_id="q-1",
    object_id="i",
)
GOLDEN = Path(__file__).parents[2] / "stream" / "adapters" / "golden"


def click(number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(CLICK))
    return {**found, "event_id": f"e-{number}", "client_id": f"c-{number % 7}"}


@contextmanager
def serving(
    world: World, broker: Broker | None, *, query_hash_key: bytes = b"key", **changes: Any
) -> Iterator[httpx.Client]:
    chosen = {"deadline_ms": 60_000.0, **changes}
    service = run.build(
        ServingSettings(**chosen),
        home=world.home,
        broker=broker,
        engine=db.create(world.url),
        query_hash_key=query_hash_key,
    )
    headers = {"Content-Type": "application/json"}
    with live(service) as address, httpx.Client(base_url=address, timeout=60.0, headers=headers) as client:
        yield client


def values(broker: Broker, topic: str) -> list[bytes]:
    return [record.value or b"" for record in read_to_end(broker, topic)]


@pytest.mark.kafka
def test_accepted_events_and_dead_letters_are_on_the_broker_when_the_answer_comes(
    tmp_path: Path, fresh_kafka: Broker
) -> None:
    bad = {**click(1), "position": 0}
    with serving(World(tmp_path), fresh_kafka) as client:
        answer = client.post("/v1/events", json=[click(0), bad, {"action_name": "hover"}, click(2)])
        sent = [decode.click(value).event_id for value in values(fresh_kafka, topics.CLICKS)]
        letters = list(read_to_end(fresh_kafka, topics.DEAD_LETTERS))
        again = client.post("/v1/events", json=[bad])
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["rejected"]) == (2, 2)
    assert [result["status"] for result in found["results"]] == ["accepted", "rejected", "rejected", "accepted"]
    assert {name: found["results"][1][name] for name in ("reason", "field", "value")} == {
        "reason": "bad_value",
        "field": "position",
        "value": "0",
    }
    assert found["results"][2]["reason"] == "unmapped"
    assert sorted(sent) == ["e-0", "e-2"]
    headers = [dict(letter.headers) for letter in letters]
    assert Counter(header["reason"] for header in headers) == {b"bad_value": 1}
    assert {header["topic"] for header in headers} == {b"ingest:shelfwise"}
    assert json.dumps(bad, separators=(",", ":")).encode() in {letter.value for letter in letters}
    # The same payload gives the same dead letter.
    assert again.json()["rejected"] == 1
    coordinates = {
        (dict(letter.headers)["offset"], letter.value) for letter in read_to_end(fresh_kafka, topics.DEAD_LETTERS)
    }
    assert len(coordinates) == 1


@pytest.mark.kafka
def test_other_conventions_are_adapted_with_the_key_of_this_shop(tmp_path: Path, fresh_kafka: Broker) -> None:
    cases = json.loads((GOLDEN / "ga4.json").read_text())
    query = next(case["source"] for case in json.loads((GOLDEN / "ubi.json").read_text()))
    partial = next(case["source"] for case in cases if case["title"] == "one good and one bad event")
    with serving(World(tmp_path), fresh_kafka, query_hash_key=b"golden") as client:
        one = client.post("/v1/events?format=ga4", json=cases[0]["source"])
        part = client.post("/v1/events?format=ga4", json=[partial]).json()
        client.post("/v1/events?format=ubi", json=[query]).raise_for_status()
        shown = [decode.impression(value) for value in values(fresh_kafka, topics.IMPRESSIONS)]
    assert one.json() == {"accepted": 1, "rejected": 0, "results": [{**one.json()["results"][0], "records": 1}]}
    assert [(v["status"], v["records"], v["field"]) for v in part["results"]] == [
        ("partial", 1, "events[1].params.items[0].item_id")
    ]
    assert {event.source: event.query.hash for event in shown} == dict.fromkeys(
        ("ga4", "ubi"), cases[0]["expected"][0]["record"]["query"]["hash"]
    )


def test_refusals(tmp_path: Path, memory_broker: Broker) -> None:
    with serving(World(tmp_path), memory_broker) as client:
        for body in (b"", b"null", b"[1, 2", b"[" * 100_000):
            assert client.post("/v1/events", content=body).status_code == 400, body[:10]
        unknown = client.post("/v1/events?format=csv", json=[])
        many = client.post("/v1/events", content=b"[" + b"{}," * MAX_PAYLOADS + b"{}]")
        large = client.post("/v1/events", content=b" " * (256 * 1024 + 1))
        empty = client.post("/v1/events", json=[])
    assert (unknown.status_code, unknown.json()["field"]) == (400, "format")
    assert (many.status_code, large.status_code, empty.status_code) == (413, 413, 200)


def test_an_event_with_a_field_of_the_service_refuses_the_batch(tmp_path: Path, memory_broker: Broker) -> None:
    shown = {"object_id": ["i"], "rank_in": [1], "price_minor": [1]}
    forged = {**click(1), "action_name": "impression", "query": {"hash": "h"}, "currency": "EUR", "items": shown}
    with serving(World(tmp_path), memory_broker) as client:
        answer = client.post("/v1/events", json=[click(0), {**forged, "version": "999"}])
        free = client.post("/v1/events?format=metarank", json=[{"event": "item", "version": "1"}])
    assert (answer.status_code, answer.json()["field"], answer.json()["value"]) == (422, "[1].version", '"999"')
    assert free.status_code == 200
    assert values(memory_broker, topics.CLICKS) == []


def test_without_a_broker_nothing_is_acknowledged(tmp_path: Path) -> None:
    with serving(World(tmp_path), None) as client:
        answer = client.post("/v1/events", json=[click(1)])
        metrics = client.get("/metrics").text
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert 'shelfwise_serving_collected_total{outcome="unacknowledged"} 1.0' in metrics
    assert 'shelfwise_serving_collected_total{outcome="record"} 0.0' in metrics


def test_a_full_queue_refuses_and_recovers(memory_broker: Broker) -> None:
    body = json.dumps([click(number) for number in range(10)]).encode()
    collector = Collector(
        Delivery(memory_broker, clock=time.monotonic, random=lambda: 0.0),
        Metrics(),
        options=Options(),
        max_bytes=2 * len(body),
        timeout_s=60.0,
        now_ms=lambda: START_MS,
    )

    record = ProducerRecord(topic=topics.ANNOTATIONS, key=b"k", value=b"v" * 100)

    async def scenario() -> list[int]:
        # The thread has not started: the first two batches wait, the third does not fit.
        waiting = [asyncio.create_task(collector.collect("shelfwise", body)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as refused:
            await collector.collect("shelfwise", body)
        with pytest.raises(BusyError):
            await collector.deliver([record])
        assert refused.value.retry_after_s >= 1
        collector.start()
        answers = await asyncio.gather(*waiting)
        await collector.deliver([record])
        return [answer.accepted for answer in [*answers, await collector.collect("shelfwise", body)]]

    try:
        assert asyncio.run(scenario()) == [10, 10, 10]
    finally:
        collector.stop()
    assert len(values(memory_broker, topics.CLICKS)) == 30
    assert values(memory_broker, topics.ANNOTATIONS) == [b"v" * 100]


def test_a_full_queue_is_a_429_with_a_time_to_come_back(tmp_path: Path) -> None:
    service = World(tmp_path).service(ServingSettings(collect_bytes=10))
    with TestClient(create(service)) as client:
        answer = client.post("/v1/events", json=[click(1)])
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")


@pytest.mark.kafka
def test_every_acknowledged_event_of_many_senders_is_there_once(tmp_path: Path, fresh_kafka: Broker) -> None:
    acknowledged: list[str] = []

    def send(client: httpx.Client, first: int) -> None:
        for start in range(first, first + 200, 20):
            batch = [click(number) for number in range(start, start + 20)]
            answer = client.post("/v1/events", json=batch)
            results = answer.json().get("results", [])
            acknowledged.extend(
                event["event_id"]
                for event, result in zip(batch, results, strict=True)
                if result["status"] == "accepted"
            )

    with serving(World(tmp_path), fresh_kafka) as client:
        threads = [threading.Thread(target=send, args=(client, 1_000 * number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Counter(decode.click(value).event_id for value in values(fresh_kafka, topics.CLICKS))
    assert len(acknowledged) == 800
    assert found == Counter(acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_generated_batches_meet_no_server_error(tmp_path: Path, memory_broker: Broker, mode: str) -> None:
    schema = schemathesis.openapi.from_dict(dict(openapi.document()))
    cases = schema[openapi.EVENTS]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    statuses: Counter[int] = Counter()
    with serving(World(tmp_path), memory_broker) as client:

        @seed(5)
        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def ask(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=str(client.base_url))
            statuses[response.status_code] += 1
            case.validate_response(
                response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
            )

        ask()
    assert sum(statuses.values()) >= 60
    assert statuses[200 if mode == "positive" else 400] > 0
