"""Reports of servers, written and read, on SQLite and PostgreSQL."""

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, update

from stream import db
from stream.errors import StoreError
from trainer.rollout import reports
from trainer.rollout.reports import KEPT_MS, AnswerCounts, CountsKey, Report
from trainer.rollout.tables import servers

COUNTS = AnswerCounts(answered=3, scored=2, fallbacks={"late": 1}, bad=0, latency={"0.01": 2, "inf": 1})
REPORT = Report(
    name="a:8080",
    seen_ts=5_000,
    ready=True,
    map_sha256="a" * 64,
    loaded={"prm": {"1": "ok", "2": "golden scores differ"}, "armmt": {}},
    counts={"prm/2/canary": COUNTS},
)


def read(engine: Engine) -> list[Report]:
    with db.read(engine) as connection:
        return reports.read(connection)


def test_a_report_replaces_the_one_before(engine: Engine) -> None:
    assert read(engine) == []
    reports.write(engine, replace(REPORT, ready=False, loaded={}, counts={}, map_sha256=None))
    reports.write(engine, replace(REPORT, name="b:8080"))
    reports.write(engine, REPORT)
    assert read(engine) == [REPORT, replace(REPORT, name="b:8080")]


def test_the_row_of_a_process_that_is_long_gone_is_removed(engine: Engine) -> None:
    reports.write(engine, REPORT)
    for age_ms, num_left in ((KEPT_MS, 2), (KEPT_MS + 1, 1)):
        reports.write(engine, replace(REPORT, name="b:8080", seen_ts=REPORT.seen_ts + age_ms))
        assert len(read(engine)) == num_left


def test_a_long_reason_is_cut(engine: Engine) -> None:
    reports.write(engine, replace(REPORT, loaded={"prm": {"1": "x" * 300}}))
    assert read(engine)[0].loaded == {"prm": {"1": "x" * 255}}


def test_counts_have_keys_of_three_parts() -> None:
    assert REPORT.by_key() == {CountsKey("prm", 2, "canary"): COUNTS}
    assert CountsKey("prm", 2, "canary").text == "prm/2/canary"


def test_a_row_that_is_no_report_is_named(engine: Engine) -> None:
    reports.write(engine, REPORT)
    with db.transaction(engine) as connection:
        connection.execute(update(servers).values(counts={"prm/2/canary": 3}))
    with pytest.raises(StoreError, match="report of a:8080"):
        read(engine)
