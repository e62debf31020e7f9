import threading

import pytest

from serving.metrics import Metrics
from serving.ranking.assignment import ClientAssignment
from serving.ranking.context import RankContext
from serving.ranking.rank import LATE, NOT_FINITE
from serving.ranking.reports import REPORT_S, AnswersByVersion, Reporter
from serving.ranking.versions import NO_VERSION
from stream.errors import StoreError
from stream.schemas.events import Slice
from tests.serving.world import context, request
from trainer.rollout.reports import AnswerCounts, Report
from trainer.rollout.slices import CANARY, CONTROL

ASKED = request()


def answered(
    counts_for: int | None = 2,
    part: Slice | None = None,
    *,
    fallback: str | None = None,
    latency_us: int = 4_000,
    features: object = "built",
    lineage: str | None = "base",
) -> RankContext:
    return context(
        ASKED,
        assignment=ClientAssignment(lineage=lineage),
        slice=part,
        counts_for=counts_for,
        fallback=fallback,
        scores=None if fallback else [1.0],
        features=features,
        latency_us=latency_us,
    )


def test_answers_count_by_version_slice_fallback_and_latency() -> None:
    metrics = Metrics()
    answers = AnswersByVersion(metrics)
    for each in (
        answered(),
        answered(latency_us=5_000),
        answered(latency_us=5_001, fallback=LATE),
        answered(2, CANARY, fallback=NOT_FINITE, latency_us=3_000_000),
        answered(2, CANARY, fallback=NOT_FINITE, features=None),
        answered(2, CONTROL),
        answered(None, fallback=NO_VERSION),
        answered(None, lineage=None),
    ):
        answers.add(each)
    assert answers.as_reported() == {
        "base/2/live": AnswerCounts(answered=3, scored=2, fallbacks={LATE: 1}, latency={"0.005": 2, "0.0075": 1}),
        "base/2/canary": AnswerCounts(
            answered=2, scored=0, fallbacks={NOT_FINITE: 2}, bad=1, latency={"inf": 1, "0.005": 1}
        ),
        "base/2/control": AnswerCounts(answered=1, scored=1, latency={"0.005": 1}),
    }
    assert sample(metrics, "2", "live", "none") == 2.0
    assert sample(metrics, "2", "canary", NOT_FINITE) == 2.0


def sample(metrics: Metrics, version: str, part: str, fallback: str) -> float | None:
    labels = {"lineage": "base", "version": version, "slice": part, "fallback": fallback}
    return metrics.registry.get_sample_value("shelfwise_serving_version_requests_total", labels)


def test_superseded_versions_leave_counts_and_metrics() -> None:
    metrics = Metrics()
    answers = AnswersByVersion(metrics)
    for number in (1, 2, 3):
        answers.add(answered(number))
    answers.keep({("base", 2), ("base", 3), ("other", 1)})
    assert list(answers.as_reported()) == ["base/2/live", "base/3/live"]
    assert (sample(metrics, "1", "live", "none"), sample(metrics, "2", "live", "none")) == (None, 1.0)


def test_a_copy_of_the_counts_does_not_change() -> None:
    answers = AnswersByVersion(Metrics())
    answers.add(answered())
    taken = answers.as_reported()
    answers.add(answered(fallback=LATE))
    assert taken == {"base/2/live": AnswerCounts(answered=1, scored=1, latency={"0.005": 1})}


def test_counts_are_exact_while_reports_are_made() -> None:
    answers = AnswersByVersion(Metrics())
    num, stopped = 2_000, threading.Event()

    def add() -> None:
        for number in range(num):
            answers.add(answered(number % 7))
        stopped.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not stopped.is_set():
        answers.as_reported()
        answers.keep({("base", number) for number in range(7)})
    thread.join()
    assert sum(counts.answered for counts in answers.as_reported().values()) == num


class Reports:
    """Reports that were written, or a database that is away."""

    def __init__(self) -> None:
        self.written: list[Report] = []
        self.is_away = False
        self.now = 100.0

    def write(self, report: Report) -> None:
        if self.is_away:
            raise StoreError("connection refused")
        self.written.append(report)

    def clock(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return round(1_000 * self.now)


def reporter(to: Reports) -> Reporter:
    return Reporter(to.write, AnswersByVersion(Metrics()), name="a:8080", now_ms=to.now_ms, clock=to.clock)


def report(made: Reporter) -> None:
    made.report({"base": {"1": "ok"}}, map_sha256="a" * 64, is_ready=True)


def test_a_report_says_what_is_loaded_and_how_answers_went() -> None:
    to = Reports()
    made = reporter(to)
    to.now = 101.0
    made.answers.add(answered())
    report(made)
    assert to.written == [
        Report(
            name="a:8080",
            seen_ts=101_000,
            ready=True,
            map_sha256="a" * 64,
            loaded={"base": {"1": "ok"}},
            counts={"base/2/live": AnswerCounts(answered=1, scored=1, latency={"0.005": 1})},
        )
    ]


def test_reports_keep_their_period_however_often_polls_come() -> None:
    to = Reports()
    made = reporter(to)
    for _ in range(100):
        report(made)
        to.now += REPORT_S / 10
    assert len(to.written) in {10, 11, 12}


def test_a_database_that_is_away_loses_only_the_report(caplog: pytest.LogCaptureFixture) -> None:
    to = Reports()
    made = reporter(to)
    made.answers.add(answered())
    to.is_away = True
    for _ in range(3):
        report(made)
        to.now += REPORT_S
    assert caplog.text.count("the report of this process is not written: connection refused") == 1
    to.is_away = False
    report(made)
    assert to.written[0].counts["base/2/live"].answered == 1
