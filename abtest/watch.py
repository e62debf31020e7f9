"""Service that appends monitoring results and health checks of the running experiments, for dashboards and ramps.

It takes no look. A round replaces its own rows at an unchanged watermark, so several watchers do no harm.

Source: docs/experiments.md.
"""

import logging
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy import Engine

from abtest import pages
from abtest.page import page_html
from abtest.ramp import write_health
from abtest.render import verdict_line
from abtest.report import report
from abtest.results import Report
from abtest.retention import Retention
from abtest.store import ExperimentStore
from stream.backoff import Backoff
from stream.errors import StoreError

_log = logging.getLogger("shelfwise.abtest")


class WatchMetrics:
    """Prometheus metrics of the watcher."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rounds = Counter("shelfwise_watch_rounds_total", "Rounds over all experiments", registry=registry)
        self.seconds = Gauge("shelfwise_watch_seconds", "Duration of the newest round", registry=registry)
        self.removed = Counter(
            "shelfwise_watch_removed_rows_total", "Rows removed by age", ["table"], registry=registry
        )
        self.experiments = Gauge("shelfwise_watch_experiments", "Experiments in the newest round", registry=registry)


class WatchReadiness:
    """Readiness of the watcher, written by its loop and read by the threads of the probe server.

    Attributes:
        reason: Reason why the newest round failed, or None.
    """

    def __init__(self) -> None:
        self.reason: str | None = "no round is done yet"


class Watcher:
    """Rounds over the experiments that still change."""

    def __init__(self, engine: Engine, retention: Retention | None = None) -> None:
        self._engine = engine
        self._retention = retention
        self._complete: set[str] = set()

    def round(self) -> list[Report]:
        """Report on each experiment that runs, or has stopped and whose windows are open, and return the reports.

        The page of each is written, and the health of planned ramps is stored for the controller. Then what is too old
        is removed, and pages of experiments say so.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        found: list[Report] = []
        for experiment in ExperimentStore(self._engine).list():
            if experiment.key in self._complete:
                continue
            now = report(self._engine, experiment.key)
            self._write_page(now)
            found.append(now)
            if experiment.status != "running" and found[-1].complete:
                self._complete.add(experiment.key)
        write_health(self._engine)
        for final in self._retention.apply() if self._retention is not None else ():
            self._write_page(final)
        return found

    def _write_page(self, found: Report) -> None:
        line, html = verdict_line(found), page_html(found)
        pages.write(self._engine, found.experiment, as_of=found.as_of, verdict=line, html=html)


def run(
    engine: Engine,
    stopping: threading.Event,
    every_s: float,
    *,
    random: Callable[[], float],
    metrics: WatchMetrics,
    readiness: WatchReadiness,
    retention: Retention | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Make a round each `every_s` seconds until `stopping` is set; a database that refuses is asked again.

    Args:
        engine: A database with the newest schema.
        stopping: Ends the run between rounds.
        every_s: Seconds from the start of a round to that of the next one.
        random: Source of uniform numbers in [0, 1), for the delay after a failure.
        metrics: Metrics of the process.
        readiness: Readiness of the process.
        retention: Removes what is too old; None keeps everything.
        monotonic: Seconds of a clock that never moves back.
    """
    watcher, backoff = Watcher(engine, retention), Backoff(random=random)
    while not stopping.is_set():
        started_s = monotonic()
        try:
            reports = watcher.round()
        except StoreError as error:
            readiness.reason = str(error)
            delay_s = backoff.next_s()
            _log.warning("next attempt in %.1f s: %s", delay_s, error)
            stopping.wait(delay_s)
            continue
        readiness.reason = None
        backoff.reset()
        taken_s = monotonic() - started_s
        metrics.rounds.inc()
        metrics.seconds.set(taken_s)
        metrics.experiments.set(len(reports))
        stopping.wait(max(0.0, every_s - taken_s))
