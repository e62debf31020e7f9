"""A service that loses database, broker and artifacts at once, while it runs and when it starts (V4)."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import numpy as np
import pytest
from sqlalchemy.engine import make_url

from stream.broker.admin import create_topics
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.replicas import catalogue
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.harness.kafka import PARTITIONS, local_kafka
from tests.harness.proxy import Proxy
from tests.harness.stores import new_postgres_store
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body, items

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.system]
NUM_CLIENTS, NUM_ROUNDS = 100, 5
# The time after which a refused version is loaded again, and some more.
LOADED_AGAIN_S = 150.0


class Place(NamedTuple):
    """Assignment of a client."""

    experiment: str | None
    arm: str | None
    bucket: int | None


class Answers:
    """Answers to all clients, in a few rounds.

    Attributes:
        places: Client to its assignment.
        kinds: Pairs of version and fallback.
        ids: Event ids of the impressions.
        p99_ms: 99th percentile of the latency, as the client sees it.
    """

    def __init__(self, client: httpx.Client) -> None:
        self.places: dict[str, Place] = {}
        self.kinds: set[tuple[str | None, str | None]] = set()
        self.ids: list[str] = []
        latencies: list[float] = []
        for number in range(NUM_ROUNDS * NUM_CLIENTS):
            name, began = f"c-{number % NUM_CLIENTS}", time.perf_counter()
            reply = client.post("/v1/rank", json=body(name, event_ts=START_MS))
            latencies.append(1_000 * (time.perf_counter() - began))
            assert reply.status_code == 200
            found = reply.json()
            place = Place(found["experiment"], found["arm"], found["bucket"])
            assert self.places.setdefault(name, place) == place
            self.kinds.add((found["version"], found["fallback"]))
            self.ids.append(found["impression_event_id"])
        self.p99_ms = float(np.quantile(latencies, 0.99))


def counts(client: httpx.Client) -> dict[str, int]:
    """Return the impressions of a process by what became of them."""
    found = re.findall(r'shelfwise_serving_impressions_total\{state="(\w+)"\} (\S+)', client.get("/metrics").text)
    return {state: int(float(number)) for state, number in found}


def settled(client: httpx.Client) -> dict[str, int]:
    """Return the counts as soon as all impressions are delivered, spooled or dropped; none may be dropped."""
    found: dict[str, int] = {}

    def is_settled() -> bool:
        found.update(counts(client))
        return found["emitted"] == found["delivered"] + found["spooled"] + found["dropped"]

    wait_until(is_settled)
    assert found["dropped"] == 0
    return found


@contextmanager
def without(folder: Path) -> Iterator[None]:
    """Take a folder away for a while."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


def test_v4_without_database_broker_and_artifacts_every_client_is_answered_in_its_arm(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, port = new_postgres_store(postgres_url), free_port()
    world, address = World(tmp_path, url), f"http://127.0.0.1:{port}"
    world.go_live("base", 1)
    world.go_live("armmt", 1, model="armmt")
    world.experiment()
    kafka, ids = local_kafka(tmp_path / "kafka"), []
    broker = kafka.start()
    settings = {"trust_event_ts": "true", "poll_s": 0.5}
    try:
        create_topics(broker, PARTITIONS)
        with Producer(broker) as producer:
            catalogue.publish(producer, items())
        with Proxy(make_url(url).port or 0) as proxy, httpx.Client(base_url=address, timeout=60.0) as client:
            through = proxy.through(url)
            with process(tmp_path, broker, port, settings=settings, database=through) as child:
                wait_ready(address)
                Answers(client)
                healthy = Answers(client)
                assert healthy.kinds == {("1", None)}
                settled(client)
                proxy.stall()
                kafka.stop()
                with without(world.artifacts):
                    wait_until(lambda: client.get("/readyz").json()["map_age_s"] > 5)
                    lost = Answers(client)
                    assert (lost.kinds, lost.places) == (healthy.kinds, healthy.places)
                    now = settled(client)
                    assert now["emitted"] == 3 * NUM_ROUNDS * NUM_CLIENTS
                    child.send_signal(signal.SIGTERM)
                    assert child.wait(60.0) == 0
            with process(tmp_path, broker, port, settings=settings, database=through):
                with without(world.artifacts):
                    wait_ready(address)
                    started = Answers(client)
                    assert (started.kinds, started.places) == ({(None, "no_version")}, healthy.places)
                    assert client.get("/readyz").json()["map_source"] == "copy"
                    assert set(client.get("/readyz").json()["refused"]) == {"armmt", "base"}
                proxy.flow()
                kafka.start()
                wait_until(
                    lambda: client.get("/readyz").json()["versions"] == {"armmt": "1", "base": "1"}, LOADED_AGAIN_S
                )
                again = Answers(client)
                assert (again.kinds, again.places) == (healthy.kinds, healthy.places)
                ids = healthy.ids + lost.ids + started.ids + again.ids
                # It delivers what the first process has spooled, too.
                own = settled(client)
                wait_until(lambda: counts(client)["resent"] == now["spooled"] + own["spooled"], LOADED_AGAIN_S)
        delivered = [
            msgspec.json.decode(record.value or b"", type=Impression).event_id
            for record in read_to_end(broker, IMPRESSIONS)
        ]
    finally:
        kafka.stop()
        world.engine.dispose()
    assert set(ids) <= set(delivered)
    with capsys.disabled():
        print(  # noqa: T201 - figures of a run that takes a minute
            f"\np99 {healthy.p99_ms:.1f} ms healthy, {lost.p99_ms / healthy.p99_ms:.2f} times that without all three, "
            f"{started.p99_ms / healthy.p99_ms:.2f} times after a start without them"
        )
