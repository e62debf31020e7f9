"""Clients beside idle and slow connections, bodies of 10 MiB and lists of 100,000 candidates (V8)."""

import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from deploy.kafka.memory import MemoryBroker
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body

pytestmark = pytest.mark.system
NUM_ASKED, PERIOD_S = 400, 0.05
STARTED = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SLOW = [b""] * 1_100 + [STARTED] * 300 + [STARTED + b"Content-Length: 100\r\n\r\n{"] * 300
LARGEST_GROWTH_MB = 100
_LARGE = """
import json, sys, time
import httpx
from tests.serving.world import body
large = [b" " * 10 * 2**20, json.dumps(body(num_candidates=100_000)).encode()]
while True:
    for number, content in enumerate(large):
        try:
            status = httpx.post(
                f"{sys.argv[1]}/v1/rank", content=content, headers={"Content-Type": "application/json"}, timeout=60.0
            ).status_code
        except httpx.TransportError:
            status = "lost"
        print(number, status, flush=True)
    time.sleep(0.5)
"""


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1_024


def p99_ms(address: str) -> float:
    """Ask at an even pace over a connection that is kept, and return the 99th percentile of the latency."""
    latencies, due_s = [], time.monotonic()
    with httpx.Client(base_url=address, timeout=60.0) as client:
        for number in range(NUM_ASKED):
            time.sleep(max(0.0, due_s - time.monotonic()))
            began = time.perf_counter()
            reply = client.post("/v1/rank", json=body(f"c-{number}", event_ts=START_MS))
            latencies.append(1_000 * (time.perf_counter() - began))
            assert (reply.status_code, reply.json()["fallback"]) == (200, None)
            due_s += PERIOD_S
    return float(np.quantile(latencies, 0.99))


def test_v8_slow_clients_and_large_bodies_are_refused_and_others_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    World(tmp_path).go_live("base", 1)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    settings = {"trust_event_ts": "true", "headers_timeout_s": 5.0, "body_timeout_s": 5.0, "keep_alive_s": 60.0}
    with (
        MemoryBroker(1) as memory,
        process(tmp_path, memory.broker, port, settings=settings, num_files=1_024) as child,
        ExitStack() as stack,
    ):
        wait_ready(address)
        p99_ms(address)
        calm_ms, calm_mb = p99_ms(address), resident_mb(child.pid)
        held = []
        for sent in SLOW:
            held.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60.0)))
            held[-1].sendall(sent)
        # A process of its own, so that its work does not count as waiting of the others.
        large = subprocess.Popen(
            [sys.executable, "-c", _LARGE, address], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
        )
        beside_ms, beside_mb = p99_ms(address), resident_mb(child.pid)
        large.terminate()
        statuses = [tuple(line.split()) for line in large.communicate()[0].splitlines()]

        def number_of_timeouts() -> float:
            found = httpx.get(f"{address}/metrics", timeout=60.0).text
            return sum(float(n) for n in re.findall(r'closed_connections_total\{reason="\w+"\} (\S+)', found))

        wait_until(lambda: number_of_timeouts() >= len(SLOW))
    # The server closes while the client still sends: some clients see that and no answer.
    assert {("0", "413"), ("1", "413")} <= set(statuses) <= {(n, status) for n in "01" for status in ("413", "lost")}
    assert beside_mb - calm_mb < LARGEST_GROWTH_MB
    with capsys.disabled():
        print(  # noqa: T201 - figures of a run that takes a minute
            f"\np99 of others {calm_ms:.1f} ms, {beside_ms / calm_ms:.2f} times that beside {len(SLOW)} slow "
            f"connections and {len(statuses)} large bodies; {calm_mb:.0f} to {beside_mb:.0f} MB"
        )
