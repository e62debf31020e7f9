from dataclasses import replace

import pytest
from sqlalchemy import Engine, update

from abtest import final_reports, tables
from abtest.report import report
from stream import db
from stream.errors import StoreError
from tests.harness.generated_facts import fill, generate

pytestmark = pytest.mark.parametrize("store_engine", ["sqlite"], indirect=True)


def test_a_report_that_json_would_change_is_not_stored(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=3, num_clients=20)[0])
    found = report(store_engine, "first")
    damaged = replace(found, results=(replace(found.results[0], mean=float("nan")), *found.results[1:]))
    with db.transaction(store_engine) as connection:
        assert not final_reports.write(connection, damaged)
        assert final_reports.read(connection, "first") is None
        assert final_reports.write(connection, found)
        assert final_reports.read(connection, "first") is not None


def test_an_unreadable_report_is_an_error_and_not_an_empty_one(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=3, num_clients=20)[0])
    found = report(store_engine, "first")
    with db.transaction(store_engine) as connection:
        final_reports.write(connection, found)
        connection.execute(update(tables.final_reports).values(report="{}"))
    with pytest.raises(StoreError, match="facts were removed, and its final report cannot be read"):
        report(store_engine, "first")
