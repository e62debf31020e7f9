import pytest
from sqlalchemy import Engine

from abtest import first_exposures
from abtest.client_vectors import Counted
from abtest.first_exposures import FirstExposures
from stream import db
from stream.schemas.times import DAY_MS
from tests.harness.generated_facts import LAST_TS, fill
from tests.harness.sessions import make_session

pytestmark = pytest.mark.slow

WHOLE = Counted(experiment="first", epochs=(1,), start_ts=0, until_ts=None)


def test_clients_are_counted_once_by_what_their_first_list_was(store_engine: Engine) -> None:
    fill(
        store_engine,
        [
            make_session("q1", "a", impression_ts=5),
            make_session("q2", "a", impression_ts=DAY_MS + 5, version="2", fallback="timeout"),
            make_session("q3", "b", impression_ts=DAY_MS + 6, version=None, fallback="no_version"),
            make_session("q4", "c", impression_ts=DAY_MS + 7, arm="treatment"),
            make_session("q5", "d", impression_ts=DAY_MS + 8, arm="treatment"),
        ],
        matured_ts=LAST_TS,
    )
    counted = Counted(experiment="first", epochs=(1,), start_ts=0, until_ts=DAY_MS + 7)
    with db.read(store_engine) as connection:
        found = first_exposures.read(connection, WHOLE, counted)

    def cell(
        arm: str, day_ts: int, version: str | None, fell_back: bool, assigned: int, exposed: int
    ) -> FirstExposures:
        return FirstExposures(
            arm=arm,
            epoch=1,
            day_ts=day_ts,
            lineage="prm-1",
            version=version,
            fell_back=fell_back,
            assigned=assigned,
            exposed=exposed,
        )

    assert found == (
        cell("control", 0, "1", False, 1, 1),
        cell("control", DAY_MS, None, True, 1, 1),
        cell("treatment", DAY_MS, "1", False, 2, 1),
    )


def test_without_an_end_all_clients_count(store_engine: Engine) -> None:
    fill(store_engine, [make_session("q1", "a"), make_session("q2", "b", arm="treatment")])
    with db.read(store_engine) as connection:
        found = first_exposures.read(connection, WHOLE, WHOLE)
    assert [(cell.arm, cell.assigned, cell.exposed) for cell in found] == [("control", 1, 1), ("treatment", 1, 1)]
