"""The program of `make bench-abtest`: experiments at their largest size, into docs/benchmarks/abtest.md.

A file of sessions is analysed by `shelfwise abtest analyze` and by tea-tasting on DuckDB, each in a process of its own
with cold imports, and their lifts and p-values have to agree. Comparisons from moments are timed, and the waits of a
second writer of SQLite while a report, `rebuild` and retention run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abtest import estimates, inference, multiplicity
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from tests.bench.contenders import PEER_PYTHON
from tests.bench.report import commit, hardware
from tests.bench.session_file import SESSIONS_EACH
from tests.bench.writer_waits import Phase, phases

_PEER = Path(__file__).parent / "peers" / "tea_tasting_file.py"
_METRICS = ("ctr", "cvr", "gmv")
_ARMS, _SEGMENTS = 4, 100
_TIMES = 50
# Both add up numbers of 64 bits, in another order.
_SAME_LIFT, _SAME_P = 1e-9, 1e-6
_BUSY = (
    " Other work kept the cores busy and went first: times by the clock contain its turns, and so do the waits for a"
    " lock, whose holder it interrupts. CPU seconds do not."
)
_PLAN = """
client = "client"
control = "control"
weights = { control = 0.5, treatment = 0.5 }

[[metric]]
name = "CTR"
numerator = "clicks"
denominator = "items"

[[metric]]
name = "CVR"
numerator = "orders"
denominator = "sessions"

[[metric]]
name = "GMV"
numerator = "gross_minor"
is_money = true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process: its seconds by the clock and of CPU, its largest memory, and relative lift and p by metric."""

    wall_s: float
    cpu_s: float
    rss_gb: float
    found: Mapping[str, tuple[float, float]]


def _run(command: Sequence[str], read: Callable[[bytes], Mapping[str, tuple[float, float]]]) -> Run:
    with tempfile.TemporaryFile() as output:
        start_s = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        found = read(output.read())
    # Linux counts ru_maxrss in KiB.
    return Run(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, rss_gb=usage.ru_maxrss * 1024 / 1e9, found=found)


def _ours(raw: bytes) -> dict[str, tuple[float, float]]:
    return {each["metric"]: (each["lift"]["lift"], each["lift"]["p_fixed"]) for each in json.loads(raw)["results"]}


def _theirs(raw: bytes) -> dict[str, tuple[float, float]]:
    return {metric: (lift, p) for metric, (lift, p) in json.loads(raw).items()}


def measure_file(folder: Path, rows: int, rounds: int, *, as_text: bool) -> tuple[list[Run], list[Run]]:
    """Return the runs of both programs over one file, in turns, after a comparison of their results."""
    file, plan = folder / "sessions.parquet", folder / "plan.toml"
    plan.write_text(_PLAN)
    options = ["--text"] if as_text else []
    module = "tests.bench.session_file"
    subprocess.run([sys.executable, "-m", module, str(file), "--rows", str(rows), *options], check=True)
    ours, theirs = list[Run](), list[Run]()
    for _ in range(rounds):
        command = [sys.executable, "-m", "deploy", "abtest", "analyze", str(file), "--plan", str(plan), "--json"]
        ours.append(_run(command, _ours))
        theirs.append(_run([str(PEER_PYTHON), str(_PEER), str(file)], _theirs))
        print(ours[-1], theirs[-1], sep="\n", flush=True)  # noqa: T201 - progress of a program
        for metric, (lift, p) in ours[-1].found.items():
            other = theirs[-1].found[metric]
            np.testing.assert_allclose(lift, other[0], rtol=_SAME_LIFT, err_msg=f"lift of {metric}")
            np.testing.assert_allclose(p, other[1], rtol=_SAME_P, err_msg=f"p of {metric}")
    return ours, theirs


def measure_comparisons() -> dict[str, float]:
    """Return the least milliseconds of each step from moments to p-values by Holm."""
    random = np.random.default_rng(3)
    vectors = random.poisson(2.0, (_SEGMENTS, _ARMS + 1, 50, len(COLUMNS))).astype(np.float64)
    segments = [[Moments.of(clients) for clients in arms] for arms in vectors]
    chosen = [METRICS[name] for name in _METRICS]
    steps: dict[str, list[float]] = {"estimates": [], "comparisons": [], "Holm": [], "all": []}
    for _ in range(_TIMES):
        times = [time.perf_counter()]
        pairs = [
            estimates.pair(metric, control, arm) for control, *arms in segments for metric in chosen for arm in arms
        ]
        times.append(time.perf_counter())
        lifts = inference.compare_all(pairs)
        times.append(time.perf_counter())
        multiplicity.holm([lift.p_fixed for lift in lifts if lift.p_fixed is not None])
        times.append(time.perf_counter())
        for name, start, end in zip(steps, (0, 1, 2, 0), (1, 2, 3, 3), strict=True):
            steps[name].append(1e3 * (times[end] - times[start]))
    return {name: min(found) for name, found in steps.items()}


def _markdown(
    rows: int,
    files: Mapping[str, tuple[list[Run], list[Run]]],
    comparisons: Mapping[str, float],
    facts: int,
    waits: Sequence[Phase],
    loads: Sequence[float],
) -> str:
    machine = hardware()
    lines = [
        "# Experiments benchmark",
        "",
        f"`make bench-abtest`, commit {commit()}, {machine['cpu']}, {machine['cores']} cores; load average"
        f" {loads[0]:.1f} at the start, {loads[1]:.1f} at the end."
        + (_BUSY if max(loads) > float(machine["cores"]) else ""),
        "",
        "## A file of sessions",
        "",
        f"{rows:,} sessions of {round(rows / SESSIONS_EACH):,} clients in two arms, as one Parquet file, analysed by a"
        " process that begins with its imports: `shelfwise abtest analyze FILE --plan PLAN --json`, and tea-tasting on"
        " DuckDB (sums by client in DuckDB, then CTR, CVR, GMV and the sample ratio). The programs run in turns; the"
        f" table has the least of {len(next(iter(files.values()))[0])} runs each. Lifts agree to {_SAME_LIFT:g} and"
        f" p-values to {_SAME_P:g} of the value, or the program fails.",
        "",
        "| client ids | program | time, s | CPU, s | peak memory, GB |",
        "|---|---|---:|---:|---:|",
    ]
    for ids, (ours, theirs) in files.items():
        lines += [
            f"| {ids} | {name} | {_least(runs, 'wall_s'):.2f} | {_least(runs, 'cpu_s'):.2f} |"
            f" {_least(runs, 'rss_gb'):.2f} |"
            for name, runs in (("Shelfwise", ours), ("tea-tasting", theirs))
        ]
    (found, _), *_ = files.values()
    lines += ["", "| metric | lift | p |", "|---|---:|---:|"]
    lines += [f"| {metric} | {lift:+.4%} | {p:.4g} |" for metric, (lift, p) in found[-1].found.items()]
    lines += [
        "",
        "## Comparisons from moments",
        "",
        f"{len(_METRICS) * _ARMS * _SEGMENTS:,} comparisons ({len(_METRICS)} metrics, {_ARMS} arms,"
        f" {_SEGMENTS} segments), the least of {_TIMES} runs in one process: "
        + ", ".join(f"{name} {value:.1f} ms" for name, value in comparisons.items())
        + ".",
        "",
        "## A second writer",
        "",
        f"SQLite with {facts:,} facts. A process writes one row, sleeps for 5 ms, and writes again; the table has the"
        " times that it waited for the write lock while another process did the work of the first column.",
        "",
        "| meanwhile | takes, s | writes | p50, ms | p99, ms | longest, ms |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {each.name} | {each.seconds:.1f} | {len(each.waits_ms):,} | {each.quantile(0.5):.1f} |"
            f" {each.quantile(0.99):.1f} | {each.quantile(1.0):.1f} |"
            for each in waits
        ),
        "",
    ]
    return "\n".join(lines)


def _least(runs: Sequence[Run], name: str) -> float:
    return float(min(getattr(run, name) for run in runs))


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="make bench-abtest")
    parser.add_argument("--rows", type=int, default=10_000_000, help="Sessions of the file.")
    parser.add_argument("--facts", type=int, default=1_000_000, help="Facts of the database.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=str(Path(__file__).parents[2] / "docs" / "benchmarks" / "abtest.md"))
    options = parser.parse_args()
    loads = [os.getloadavg()[0]]
    files = {}
    for ids, as_text in (("integers", False), ("text of 16 characters", True)):
        with tempfile.TemporaryDirectory() as folder:
            files[ids] = measure_file(Path(folder), options.rows, options.rounds, as_text=as_text)
    comparisons = measure_comparisons()
    print(comparisons, flush=True)  # noqa: T201 - progress of a program
    with tempfile.TemporaryDirectory() as folder:
        waits = phases(Path(folder) / "store.db", options.facts)
    loads.append(os.getloadavg()[0])
    Path(options.out).write_text(_markdown(options.rows, files, comparisons, options.facts, waits, loads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
