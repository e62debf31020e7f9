"""S13: clients whose clocks are wrong, a broker's clock that steps back, and modules that read no wall clock."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import stream
from stream.join.settings import JoinSettings
from stream.operations.recount import recount
from stream.schemas import events, topics
from stream.schemas.events import Impression, Tick
from tests.laws.join_log import (
    START_TS,
    Event,
    Log,
    Outputs,
    Run,
    Tables,
    click,
    impression,
    run,
)
from tests.stream.faults.fault_log import DAY, DAY_MS, HOUR_MS, SHOPPERS, Arrival, arrival, log_of, on_time, shopping

END_TS = START_TS + DAY_MS
MAX_SHIFT_MS = 300_000


def _in_order(log: Log, settings: JoinSettings = DAY) -> tuple[Run, dict[int, int]]:
    """Run a log as it arrived, and return the watermark at each tick."""
    tables, outputs = Tables(), Outputs()
    join = tables.join(settings)
    marks: dict[int, int] = {}
    inputs = (record for name in (*topics.EVENT_TOPICS, topics.TICKS) for record in log.records[name])
    for record in sorted(inputs, key=lambda each: each.timestamp):
        before = join.watermark_ts
        outputs.take(join.apply([record]))
        assert join.watermark_ts >= before
        if record.topic == topics.TICKS:
            marks[join.now_ts] = join.watermark_ts
    return Run(join, tables, outputs), marks


def _with_wrong_clocks(happened: list[Event], sent: list[Arrival], seed: int) -> tuple[list[Arrival], set[str]]:
    """Return the arrivals when one client in twenty is an hour ahead or behind, and those clients."""
    random = np.random.default_rng(seed)
    wrong = list(random.permutation(SHOPPERS))[: max(2, len(SHOPPERS) // 20)]
    offsets = {client: HOUR_MS if number % 2 else -HOUR_MS for number, client in enumerate(wrong)}
    changed: list[Arrival] = []
    for event, came in zip(happened, sent, strict=True):
        offset_ms = offsets.get(event.client_id, 0)
        said = msgspec.structs.replace(event, event_ts=event.event_ts + offset_ms)
        changed.append(replace(came, value=events.encode(said)))
    return changed, set(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_s13_wrong_clocks_of_some_change_no_session_of_the_others(seed: int) -> None:
    """S13: 5 % of the clients an hour off, one event ten years ahead: the others' sessions and the watermark hold."""
    # A clock that is ahead moves the watermark by up to the lateness, so sessions close this much earlier.
    happened = shopping(900, seed=seed, last_click_s=840)
    sent = on_time(happened, seed=seed)
    skewed, wrong = _with_wrong_clocks(happened, sent, seed)
    decade = click(9_999, 5, "item-1", client=SHOPPERS[0], at_s=10 * 365 * 86_400)
    skewed.append(replace(arrival(decade), arrival_ts=START_TS + HOUR_MS))
    clean, true_marks = _in_order(log_of(sent, end_ts=END_TS))
    log = log_of(skewed, end_ts=END_TS)
    result, marks = _in_order(log)
    others = [e.query_id for e in happened if isinstance(e, Impression) and e.client_id not in wrong]
    assert len(others) < sum(isinstance(event, Impression) for event in happened)
    before, after = clean.outputs.final(), result.outputs.final()
    assert [query_id for query_id in others if before[query_id] != after.get(query_id)] == []
    shared = marks.keys() & true_marks.keys()
    assert len(shared) > 300
    assert max(marks[now_ts] - true_marks[now_ts] for now_ts in shared) <= MAX_SHIFT_MS
    assert result.join.counters["clamped"] > 0
    assert [reason for reason, _ in result.outputs.dead_letters(topics.DEAD_LETTERS)] == ["future_ts"]
    assert recount([*log.events(), *result.outputs.records], DAY).is_closed


def test_s13_live_an_event_ten_years_ahead_is_measured_by_the_brokers_stamp() -> None:
    """S13: without a driver, the stamp of the record tells how far ahead it is, also before the first tick."""
    live = replace(DAY, ticks="worker")
    join = Tables().join(live)
    decade = events.encode(impression(1, client=SHOPPERS[0], at_s=10 * 365 * 86_400))
    log = Log()
    log.append(topics.IMPRESSIONS, SHOPPERS[0].encode(), decade, START_TS)
    log.append(topics.IMPRESSIONS, SHOPPERS[0].encode(), events.encode(impression(2, client=SHOPPERS[0])), START_TS)
    effects = join.apply(log.records[topics.IMPRESSIONS])
    assert [dict(headers)["reason"] for _, _, headers in effects.dead_letters] == [b"future_ts"]
    assert join.open_sessions == 1


@pytest.mark.slow
@pytest.mark.parametrize("step_ms", [600_000, HOUR_MS])
def test_s13_the_brokers_clock_steps_back(step_ms: int) -> None:
    """S13: stamps of ticks and events fall by ten minutes or an hour: nothing falls with them, nothing is lost."""
    happened = shopping(900, seed=13)
    plain = log_of(on_time(happened, seed=13), end_ts=END_TS)
    stepped = Log()
    step_at_ts = START_TS + HOUR_MS
    for name in topics.INPUTS:
        for record in plain.records[name]:
            value = record.value
            if name == topics.TICKS:
                tick = msgspec.json.decode(record.value or b"", type=Tick)
                value = events.encode(msgspec.structs.replace(tick, now_ts=None))
            stamp = record.timestamp - (step_ms if record.timestamp >= step_at_ts else 0)
            stepped.append(name, record.key, value, stamp)
    clean = run(plain, settings=DAY, max_batch=16)
    tables, outputs = Tables(), Outputs()
    join = tables.join(replace(DAY, ticks="worker"))
    now_ts = watermark_ts = 0
    # Records that arrived together are read together, even if their timestamps differ.
    order = sorted(
        (
            (record.timestamp, name, number)
            for name in topics.INPUTS
            for number, record in enumerate(plain.records[name])
        )
    )
    for _, name, number in order:
        outputs.take(join.apply([stepped.records[name][number]]))
        assert join.now_ts >= now_ts
        assert join.watermark_ts >= watermark_ts
        now_ts, watermark_ts = join.now_ts, join.watermark_ts
    assert outputs.final() == clean.outputs.final()
    assert Run(join, tables, outputs).outcomes == clean.outcomes


_WALL_CLOCKS: Mapping[str, frozenset[str]] = {
    "time": frozenset(("time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime")),
    "datetime": frozenset(("now", "utcnow", "today")),
}


def _wall_clock_reads(source: str) -> Iterator[int]:
    """Yield the lines that read the wall clock, under any name of its module."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {each.asname or each.name: each.name for each in node.names if each.name in _WALL_CLOCKS}
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                if node.module == "datetime" and each.name in {"datetime", "date"}:
                    aliases[each.asname or each.name] = "datetime"
                elif each.name in _WALL_CLOCKS.get(node.module or "", ()):
                    yield node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if node.attr in _WALL_CLOCKS.get(aliases.get(name, ""), ()):
                yield node.lineno


def test_s13_one_module_of_the_stream_reads_the_wall_clock() -> None:
    """S13: timers and time-outs go by monotonic clocks; times come from records or from the caller."""
    folder = Path(stream.__file__).parent
    modules = sorted(folder.rglob("*.py"))
    assert len(modules) > 50
    found = {
        str(path.relative_to(folder)): lines for path in modules if (lines := list(_wall_clock_reads(path.read_text())))
    }
    assert list(found) == ["wall_clock.py"]


def test_s13_the_search_for_wall_clocks_finds_them() -> None:
    """S13: each way in which a module may read the wall clock."""
    for guilty in (
        "import time\ntime.time()",
        "import time as t\nx = t.time_ns",
        "from time import time",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.utcnow()",
        "from datetime import date as day\nday.today()",
    ):
        assert list(_wall_clock_reads(guilty)), guilty
    assert not list(_wall_clock_reads("import time\ntime.monotonic()\nself.loop.time()\nnow.time()"))
