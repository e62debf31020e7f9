"""Waits of a second writer of SQLite while a report, `rebuild` and retention run over many facts."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from sqlalchemy import delete, func, select, update

from abtest.rebuild import rebuild
from abtest.report import report
from abtest.retention import Retention
from abtest.store import ExperimentStore
from abtest.tables import client_sums, session_facts, sink_offsets
from deploy.migrations import upgrade
from stream import db
from stream.schemas.times import DAY_MS
from tests.bench import experiment_facts

_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Piece of work, the seconds that it took, and the waits of the writer meanwhile."""

    name: str
    seconds: float
    waits_ms: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Return a quantile of the waits in milliseconds; not a number without any."""
        return float(np.quantile(self.waits_ms, share)) if self.waits_ms else float("nan")


def phases(path: Path, facts: int) -> list[Phase]:
    """Return the waits in each phase, over a new database with so many facts of one stopped experiment."""
    url = f"sqlite:///{path}"
    upgrade.upgrade(url)
    engine = db.create(url)
    experiment_facts.fill(engine, facts)
    with db.transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE bench_writes (number INTEGER NOT NULL)")
        connection.exec_driver_sql("INSERT INTO bench_writes VALUES (0)")
    key, end_ts = experiment_facts.EXPERIMENT, experiment_facts.START_TS + experiment_facts.SPAN_MS

    def damage() -> None:
        with db.transaction(engine) as connection:
            some = select(client_sums.c.client_id).order_by(client_sums.c.client_id).limit(1_000)
            connection.execute(delete(client_sums).where(client_sums.c.client_id.in_(some)))

    def stop() -> None:
        ExperimentStore(engine).stop(key, now_ts=end_ts)
        late_ts = end_ts + 100 * DAY_MS
        with db.transaction(engine) as connection:
            connection.execute(update(sink_offsets).values(watermark_ts=late_ts, matured_ts=late_ts))

    retention = Retention(engine, keep_facts_days=28.0, keep_history_days=28.0, pause=time.sleep)
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    works: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("nothing", nothing, lambda: time.sleep(5.0)),
        ("report from facts", nothing, lambda: report(engine, key)),
        ("rebuild, no sums stored", nothing, lambda: rebuild(engine, key, pause=time.sleep)),
        ("report from stored sums", nothing, lambda: report(engine, key)),
        ("rebuild, equal sums", nothing, lambda: rebuild(engine, key, pause=time.sleep)),
        ("rebuild, 1,000 clients differ", damage, lambda: rebuild(engine, key, pause=time.sleep)),
        ("retention, first pass", stop, retention.apply),
        ("retention, second pass", nothing, retention.apply),
    ]
    found = [_phase(url, name, prepare, work) for name, prepare, work in works]
    with db.read(engine) as connection:
        left = connection.execute(select(func.count()).select_from(session_facts)).scalar_one()
    print(f"{facts - left} facts removed")  # noqa: T201 - progress of a program
    engine.dispose()
    return found


def _phase(url: str, name: str, prepare: Callable[[], object], work: Callable[[], object]) -> Phase:
    prepare()
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    stopping = context.Event()
    writer = context.Process(target=_write, args=(url, its, stopping))
    writer.start()
    ours.recv()
    start_s = time.perf_counter()
    work()
    seconds = time.perf_counter() - start_s
    stopping.set()
    waits_ms = ours.recv()
    writer.join()
    found = Phase(name=name, seconds=seconds, waits_ms=waits_ms)
    print(name, f"{seconds:.1f} s", [f"{found.quantile(share):.1f}" for share in (0.5, 0.99, 1.0)], flush=True)  # noqa: T201
    return found


def _write(url: str, pipe: Pipe, stopping: Event) -> None:
    """Write steadily, and send the waits for the write lock at the end."""
    engine = db.create(url)
    waits_ms: list[float] = []
    with db.read(engine) as connection:
        connection.exec_driver_sql("SELECT number FROM bench_writes")
    pipe.send("ready")
    while not stopping.is_set():
        start_s = time.perf_counter()
        with db.transaction(engine) as connection:
            waits_ms.append(1e3 * (time.perf_counter() - start_s))
            connection.exec_driver_sql("UPDATE bench_writes SET number = number + 1")
        time.sleep(_PAUSE_S)
    pipe.send(waits_ms)
    engine.dispose()
