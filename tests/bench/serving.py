"""The program of `make bench-serving`: a ranking service below and above its capacity, into docs/benchmarks/serving.md.

Each runtime of the models serves the same weights. The service is a process of its own at the default deadline, with a
memory broker for its impressions. It has the first core, the generator and the broker the others. The capacity C is
measured just before, and once more after the rounds, as the rate of scored answers to two clients that wait for each
other's turn.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
import uvloop

from deploy.kafka.memory import MemoryBroker
from serving.settings import ServingSettings
from stream.broker.producer import Producer
from stream.replicas import catalogue
from tests.bench import at_rest
from tests.bench.at_rest import AtRest, ForwardPass
from tests.bench.http_load import Outcome, Pool, closed_loop, open_loop, request
from tests.bench.report import commit, hardware
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import World, body, items
from trainer.models import MODELS
from trainer.versions.int8 import Limits
from trainer.versions.onnx_export import reason_against

_LOADS = (0.5, 1.0, 2.0, 5.0)
_NUM_CLIENTS = 500
_MOST_RATE = 3_000.0
# A compilation takes more than a minute.
_START_S = 600.0
_COLUMNS = (
    "model",
    "runtime",
    "RSS, MB",
    "load",
    "offered/s",
    "goodput/s",
    "goodput / C",
    "CPU",
    "goodput / C per CPU",
    "answers p50 / p99, ms",
    "in incoming order",
    "refused",
    "refusals p50 / p99, ms",
    "failed",
    "generator late p99, ms",
)
_BUSY = " Other work kept the cores busy, the generator's as well: latencies contain its delays."


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one load.

    Attributes:
        load: Offered requests per second, as a multiple of the capacity.
        offered: Requests sent per second.
        goodput: Scored answers within the deadline, per second.
        answers_ms: Median and 99 % quantile of the latency of answers, scored or in incoming order.
        refusals_ms: The same of refusals with 503.
        fallback: Share of the answers in incoming order.
        refused: Share of the requests that were refused.
        failed: Requests with another status, or without an answer.
        cpu: Seconds of CPU time of the service per second.
        late_ms: 99 % quantile of the generator's own delay.
    """

    load: float
    offered: float
    goodput: float
    answers_ms: tuple[float, float]
    refusals_ms: tuple[float, float]
    fallback: float
    refused: float
    failed: int
    cpu: float
    late_ms: float


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one model in one runtime.

    Attributes:
        capacities, cpus: Capacities before and after each round, with the CPU time per second.
        rows: Figures by load.
        rss_mb: Resident memory of the service at the end.
        at_rest: Figures at low rates.
    """

    capacities: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    at_rest: list[AtRest] = field(default_factory=list)


def row(load: float, seconds: float, outcomes: Sequence[Outcome], lost: int, deadline_s: float, cpu_s: float) -> Row:
    """Return the figures of one load."""
    answers = [one for one in outcomes if one.status == 200]
    refusals = [one for one in outcomes if one.status == 503]
    scored = [one for one in answers if not one.fallback]
    total = len(outcomes) + lost
    return Row(
        load=load,
        offered=total / seconds,
        goodput=sum(1 for one in scored if one.latency_s <= deadline_s) / seconds,
        answers_ms=_quantiles([one.latency_s for one in answers]),
        refusals_ms=_quantiles([one.latency_s for one in refusals]),
        fallback=1 - len(scored) / max(len(answers), 1),
        refused=len(refusals) / max(total, 1),
        failed=total - len(answers) - len(refusals),
        cpu=cpu_s / seconds,
        late_ms=_quantiles([one.late_s for one in outcomes])[1],
    )


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return (float("nan"), float("nan"))
    p50, p99 = np.quantile(np.array(seconds) * 1_000, [0.5, 0.99])
    return float(p50), float(p99)


def _cpu_s(pid: int) -> float:
    """Return the seconds of CPU time that a process has used (proc(5), fields utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    """Return the resident memory of a process (proc(5), VmRSS)."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1_024


async def _measure(port: int, pid: int, seconds: float, rounds: int, deadline_s: float, forward: ForwardPass) -> Found:
    pool = Pool("127.0.0.1", port)
    requests = [
        request(msgspec.json.encode(body(f"c-{number % _NUM_CLIENTS}", query_id=None))) for number in range(2_000)
    ]
    found = Found()

    async def capacity() -> None:
        before_s = _cpu_s(pid)
        found.capacities.append(await closed_loop(pool, requests, clients=2, seconds=seconds))
        found.cpus.append((_cpu_s(pid) - before_s) / seconds)
        print(f"capacity {found.capacities[-1]:.0f}/s at {found.cpus[-1]:.2f} CPU", flush=True)  # noqa: T201

    await closed_loop(pool, requests, clients=2, seconds=2.0)
    await capacity()
    found.at_rest.append(await at_rest.measure(pool, requests, forward, capacity=found.capacities[-1], seconds=seconds))
    print(found.at_rest[-1], flush=True)  # noqa: T201
    rng = np.random.default_rng(1)
    for _ in range(rounds):
        for load in _LOADS:
            rate = min(load * found.capacities[-1], _MOST_RATE)
            before_s = _cpu_s(pid)
            outcomes, lost = await open_loop(pool, requests, rate=rate, seconds=seconds, rng=rng)
            found.rows.append(row(load, seconds, outcomes, lost, deadline_s, _cpu_s(pid) - before_s))
            reasons = Counter(one.fallback for one in outcomes if one.status == 200)
            print(found.rows[-1], dict(reasons), flush=True)  # noqa: T201 - progress of a program
            await asyncio.sleep(1.0)
        await capacity()
    found.rss_mb.append(_rss_mb(pid))
    pool.close()
    return found


RUNTIMES: Final[Mapping[str, Mapping[str, str]]] = {
    "torch": {},
    "torch-compiled": {"compiled": "true"},
    "onnx": {"runtime": "onnx"},
    "onnx-int8": {"runtime": "onnx", "precision": "int8"},
}
"""Settings of the service by name of the runtime."""

# Untrained weights have scores so close that any limit of an int8 graph would be one of chance.
_ANY: Final = Limits(min_correlation=-1.0, max_churn=1.0)


def measure(model: str, profile: str, runtime: str, seconds: float, rounds: int, settings: ServingSettings) -> Found:
    """Return the figures of one model in one runtime."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        World(home).go_live(
            "base", 1, model=model, profile=profile, with_graph="runtime" in RUNTIMES[runtime], int8=_ANY
        )
        forward = ForwardPass(home / "forward", cores[0])
        os.sched_setaffinity(0, cores[1:] or cores)
        with MemoryBroker(4) as memory:
            with Producer(memory.broker) as producer:
                catalogue.publish(producer, items())
            port = free_port()
            chosen = {"deadline_ms": settings.deadline_ms, **RUNTIMES[runtime]}
            with process(home, memory.broker, port, settings=chosen, log=home / "log", cores={cores[0]}) as child:
                address = f"http://127.0.0.1:{port}"
                wait_ready(address, _START_S)
                wait_scored(address, _START_S)
                found = uvloop.run(_measure(port, child.pid, seconds, rounds, settings.deadline_ms / 1_000, forward))
    os.sched_setaffinity(0, cores)
    return found


def wait_scored(address: str, limit_s: float) -> None:
    """Return as soon as an answer is scored: a service is ready before that if a version takes a minute to compile."""

    def is_scored() -> bool:
        answer = client.post("/v1/rank", json=body(query_id=None))
        return answer.status_code == 200 and answer.json()["fallback"] is None

    with httpx.Client(base_url=address) as client:
        wait_until(is_scored, limit_s)


def markdown(found: dict[tuple[str, str], Found], seconds: float, settings: ServingSettings) -> str:
    """Return the figures as a page."""
    machine = hardware()
    lines = [
        "# Serving benchmark",
        "",
        f"`make bench-serving`, commit {commit()}, {machine['cpu']}, {machine['cores']} cores; load average at the end"
        f" {machine['load']}. One process on one core, deadline {settings.deadline_ms:g} ms, 30 candidates, impressions"
        f" to a memory broker; {seconds:g} s per row. Requests arrive at Poisson times, and latency counts from the"
        " time at which a request was due. C is the rate of scored answers to two clients that each wait for their"
        " answer. *Goodput* counts scored answers within the deadline. *CPU* is the service's CPU time per second;"
        " *goodput / C per CPU* compares the goodput per second of CPU time with that at C, which other work on the"
        " machine disturbs less." + (_BUSY if float(machine["load"]) > float(machine["cores"]) else ""),
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|---|---|{'---:|' * (len(_COLUMNS) - 2)}",
    ]
    for (name, runtime), figures in found.items():
        capacity = statistics.median(figures.capacities)
        per_cpu = statistics.median(a / b for a, b in zip(figures.capacities, figures.cpus, strict=True))
        about = f"{name}, C = {capacity:.0f}/s | {runtime} | {figures.rss_mb[-1]:.0f}"
        lines += [f"| {about} | {_cells(one, capacity, per_cpu)} |" for one in figures.rows]
    for name in dict.fromkeys(name for name, _ in found):
        torch = found.get((name, "torch"))
        for runtime in RUNTIMES:
            if torch and runtime != "torch" and (other := found.get((name, runtime))):
                lines += ["", _side_by_side(name, runtime, torch, other)]
    lines += ["", *at_rest.markdown({key: one for key, figures in found.items() for one in figures.at_rest})]
    return "\n".join([*lines, ""])


def _side_by_side(name: str, runtime: str, torch: Found, other: Found) -> str:
    """Return a runtime of one model beside torch in one sentence."""
    costs = [statistics.median(b / a for a, b in zip(one.capacities, one.cpus, strict=True)) for one in (torch, other)]
    capacities = [statistics.median(one.capacities) for one in (torch, other)]
    return (
        f"{name}: {runtime} answers {capacities[1] / capacities[0]:.2f} times as many lists per second at C as"
        f" torch, with {costs[1] / costs[0]:.2f} of its CPU time per list and"
        f" {other.rss_mb[-1] / torch.rss_mb[-1]:.2f} of its resident memory."
    )


def _cells(one: Row, capacity: float, per_cpu: float) -> str:
    return " | ".join(
        (
            f"{one.load:g} C",
            f"{one.offered:.0f}",
            f"{one.goodput:.0f}",
            f"{one.goodput / capacity:.2f}",
            f"{one.cpu:.2f}",
            f"{one.goodput / one.cpu / per_cpu:.2f}",
            _cell(one.answers_ms),
            f"{100 * one.fallback:.1f} %",
            f"{100 * one.refused:.1f} %",
            _cell(one.refusals_ms),
            str(one.failed),
            f"{one.late_ms:.1f}",
        )
    )


def _cell(quantiles: tuple[float, float]) -> str:
    return " / ".join("-" if value != value else f"{value:.1f}" for value in quantiles)


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="make bench-serving")
    parser.add_argument("--models", nargs="+", default=["armmt:tiny", "armmt:full"], help="MODEL:PROFILE")
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnx", "onnx-int8"], choices=[*RUNTIMES])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", default=str(Path(__file__).parents[2] / "docs" / "benchmarks" / "serving.md"))
    options = parser.parse_args()
    settings = ServingSettings()
    found = {}
    for name in options.models:
        model, _, profile = name.partition(":")
        # A model without a graph runs in torch alone.
        has_graph = reason_against(model, MODELS[model].profiles[profile]) is None
        for runtime in [one for one in options.runtimes if has_graph or "onnx" not in one]:
            figures = measure(model, profile, runtime, options.seconds, options.rounds, settings)
            found[f"{model}, {profile}", runtime] = figures
    Path(options.out).write_text(markdown(found, options.seconds, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
