"""Results as JSON and as a Markdown table."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.bench.load import Load
from tests.bench.phases import Backlog, Paced, Shared

_PACKAGES = ("faust-streaming", "aiokafka", "mode-streaming", "kafka-python", "msgspec", "rocksdict")
_TITLES = {"shelfwise": "Shelfwise worker", "quix": "Quix Streams 3.28.1", "naive": "kafka-python + dict"}


class Result(Struct, kw_only=True):
    """One contender in one run; `teams` has the turns of one worker and of two."""

    contender: str
    run: int
    backlog: Backlog
    paced: Paced
    teams: dict[int, list[Shared]] = {}


class _Report(Struct, kw_only=True):
    commit: str
    versions: dict[str, str]
    hardware: dict[str, str]
    load: dict[str, object]
    results: list[Result]


def _team(result: Result, number: int, name: str) -> float | None:
    turns = result.teams.get(number)
    return None if turns is None else statistics.mean(getattr(turn, name) for turn in turns)


def _gain(result: Result, name: str) -> float | None:
    one, two = _team(result, 1, name), _team(result, 2, name)
    return None if one is None or two is None else two / one


_Pick = Callable[[Result], float | None]
_ROWS: tuple[tuple[str, str, _Pick], ...] = (
    ("events/s per worker core (CPU time)", "{:,.0f}", lambda r: r.backlog.events_per_core),
    ("events/s, wall, broker on the same cores", "{:,.0f}", lambda r: r.backlog.events_per_s),
    ("backlog from standstill, one worker: events/s per core", "{:,.0f}", lambda r: _team(r, 1, "events_per_core")),
    ("two workers: events/s per core", "{:,.0f}", lambda r: _team(r, 2, "events_per_core")),
    ("two workers per core over one", "{:.2f}", lambda r: _gain(r, "events_per_core")),
    ("two workers by the clock over one", "{:.2f}", lambda r: _gain(r, "events_per_s")),
    ("peak RSS, backlog, MiB", "{:,.0f}", lambda r: r.backlog.peak_rss_bytes / 2**20),
    ("on-time lists in the output after kill -9, %", "{:.3f}", lambda r: r.backlog.lists * 100),
    ("on-time clicks in the output after kill -9, %", "{:.3f}", lambda r: r.backlog.clicks * 100),
    ("outputs written again after kill -9", "{:,.0f}", lambda r: r.backlog.num_repeated),
    ("clicks twice in one list after kill -9", "{:,.0f}", lambda r: r.backlog.num_doubled),
    ("recovery, start to first new commit, s", "{:.1f}", lambda r: r.backlog.recovery_s),
    ("changelog rows read", "{:,.0f}", lambda r: r.backlog.rows),
    ("changelog rows/s in recovery", "{:,.0f}", lambda r: r.backlog.rows_per_s),
    ("paced: events/s", "{:,.0f}", lambda r: r.paced.events_per_s),
    ("paced: cores used", "{:.2f}", lambda r: r.paced.cpu_share),
    ("paced: emit delay p50, ms", "{:,.0f}", lambda r: r.paced.delay_p50_ms),
    ("paced: emit delay p99, ms", "{:,.0f}", lambda r: r.paced.delay_p99_ms),
    ("paced: on-time lists in the output, %", "{:.3f}", lambda r: r.paced.lists * 100),
    ("paced: on-time clicks in the output, %", "{:.3f}", lambda r: r.paced.clicks * 100),
    ("paced: outputs written again", "{:,.0f}", lambda r: r.paced.num_repeated),
    ("paced: clicks twice in one list", "{:,.0f}", lambda r: r.paced.num_doubled),
)


def write(path: Path, results: list[Result], stored: Load, steady: Load, seconds: float) -> None:
    """Write `<path>.json` and `<path>.md`."""
    report = _Report(
        commit=commit(),
        versions={name: version(name) for name in _PACKAGES}
        | {"python": platform.python_version(), "quixstreams": "3.28.1", "kafka": "4.3.1"},
        hardware=hardware(),
        load={
            "backlog": stored.settings,
            "backlog_counts": stored.counts(),
            "paced": steady.settings,
            "paced_counts": steady.counts(),
            "paced_seconds": seconds,
        },
        results=results,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    path.with_suffix(".md").write_text(_markdown(report, stored, seconds))


def _markdown(report: _Report, stored: Load, seconds: float) -> str:
    names = list(dict.fromkeys(result.contender for result in report.results))
    runs = ", ".join(f"{_TITLES[name]} {sum(r.contender == name for r in report.results)}" for name in names)
    lines = [
        "# Stream benchmark",
        "",
        f"`make bench-stream`, commit {report.commit}: medians, spread in brackets. Runs: {runs}. "
        f"{report.hardware['cpu']}, {report.hardware['cores']} cores, {report.hardware['memory']}, "
        f"load average at the end {report.hardware['load']}; "
        + ", ".join(f"{name} {number}" for name, number in report.versions.items())
        + ".",
        "",
        f"Backlog: {stored.num_events:,} events over 12 partitions ({_counts(stored)}), 24-item lists of 1.1 KB, 1 % "
        "duplicates, 5 % out of order up to 60 s, 0.1 % late, 0.01 % poison; `kill -9` after 60 %. "
        f"Paced: a fifth of it over {seconds:.0f} s. The broker and the feed run on the same cores.",
        "",
        "| | " + " | ".join(_TITLES[name] for name in names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for title, form, pick in _ROWS:
        cells = [_cell([pick(r) for r in report.results if r.contender == name], form) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What is compared: our worker emits whole sessions when their window closes, joins orders, corrects, "
        "deduplicates, keeps profiles and is fed by ticks. Quix Streams gets its topics keyed by query and emits a row "
        "per list on arrival and per click that finds its list; its delay is that of the click. The naive joiner "
        "closes by the newest event it has read and commits automatically. CPU time counts user and system time of "
        "all threads of the process between commits; from standstill it counts all from the first event to the commit "
        "of the last. Two workers share the partitions by halves; where their events per core are those of one worker, "
        "they do twice the work once there are cores for both and for the broker.",
        "",
    ]
    return "\n".join(lines)


def _cell(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None and value == value]
    if not known:
        return "-"
    median = form.format(statistics.median(known))
    if len(known) == 1 or min(known) == max(known):
        return median
    return f"{median} ({form.format(min(known))} to {form.format(max(known))})"


def _counts(load: Load) -> str:
    return ", ".join(f"{count:,} {topic}" for topic, count in load.counts().items())


def commit() -> str:
    """Return the name of the commit."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return found.stdout.strip() or "unknown"


def hardware() -> dict[str, str]:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": platform.platform(),
    }
