"""A service whose live version changes a hundred times under load, with the full profile of ARMMT (V5)."""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from deploy.kafka.memory import MemoryBroker
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body
from trainer.rollout import changes
from trainer.rollout.store import RolloutStore

pytestmark = pytest.mark.system
NUM_VERSIONS, NUM_SWAPS = 4, 100
NUM_CLIENTS, REQUESTS_PER_S = 4, 20


class Answer(NamedTuple):
    """An answer under load, with its latency in milliseconds."""

    status: int
    version: str | None
    fallback: str | None
    scores: dict[str, float]
    latency_ms: float


def ask(client: httpx.Client) -> Answer:
    """Return the answer to the one request of this test, whose scores depend on the version alone."""
    began = time.perf_counter()
    reply = client.post("/v1/rank", json=body("c-1", event_ts=START_MS))
    latency_ms = 1_000 * (time.perf_counter() - began)
    found: dict[str, Any] = reply.json()
    scores = {item["item_id"]: item["score"] for item in found.get("items", ())}
    return Answer(reply.status_code, found.get("version"), found.get("fallback"), scores, latency_ms)


class Load:
    """Clients that ask at an even pace, and without a pause while answers take longer than that."""

    def __init__(self, address: str) -> None:
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(NUM_CLIENTS)]
        self.answers: list[Answer] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        period = NUM_CLIENTS / REQUESTS_PER_S
        due = time.monotonic() + number * period / NUM_CLIENTS
        with httpx.Client(base_url=self._address, timeout=60.0) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self.answers.append(ask(client))
                due += period


def test_v5_a_hundred_swaps_under_load_fail_no_request_and_mislabel_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, port = World(tmp_path), free_port()
    address = f"http://127.0.0.1:{port}"
    for number in range(1, NUM_VERSIONS + 1):
        world.go_live("base", number, model="armmt", profile="full")
    store = RolloutStore(world.engine)
    settings = {"poll_s": 0.1, "trust_event_ts": "true"}
    with (
        MemoryBroker(1) as memory,
        process(tmp_path, memory.broker, port, settings=settings),
        httpx.Client(base_url=address, timeout=60.0) as client,
    ):
        wait_ready(address)

        def pin(number: int) -> None:
            store.command(
                "base",
                "pin",
                lambda view: changes.pin(view, number, "swap"),
                user="ada",
                request_id=None,
                now_ms=START_MS + 1,
            )
            wait_until(lambda: ask(client).version == str(number))

        expected: dict[str, dict[str, float]] = {}
        for number in range(1, NUM_VERSIONS + 1):
            pin(number)
            expected[str(number)] = ask(client).scores
        with Load(address) as load:
            calm_until = len(load.answers) + 5 * REQUESTS_PER_S
            wait_until(lambda: len(load.answers) >= calm_until)
            calm = load.answers[:calm_until]
            for number in range(NUM_SWAPS):
                pin(1 + number % NUM_VERSIONS)
        swapped = load.answers[calm_until:]
    assert len({tuple(sorted(scores.items())) for scores in expected.values()}) == NUM_VERSIONS
    assert {(answer.status, answer.fallback) for answer in load.answers} == {(200, None)}
    for answer in load.answers:
        assert answer.version is not None
        assert answer.scores == pytest.approx(expected[answer.version], abs=1e-5)
    assert len({answer.version for answer in swapped}) == NUM_VERSIONS
    p99 = [float(np.quantile([answer.latency_ms for answer in part], 0.99)) for part in (calm, swapped)]
    with capsys.disabled():
        print(  # noqa: T201 - figures of a run that takes minutes
            f"\n{NUM_SWAPS} swaps, {len(swapped)} answers at {REQUESTS_PER_S}/s: p99 {p99[1]:.1f} ms, "
            f"{p99[1] / p99[0]:.2f} times that of the {len(calm)} answers before"
        )
