from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Engine, Row, Table, create_engine, select

from abtest.fact_writer import FactWriter
from abtest.tables import exposures, session_facts, session_orders, sink_offsets, traffic_minutes
from stream import db
from stream.errors import FencedError
from stream.schemas import topics
from stream.schemas.events import Slice
from stream.schemas.session import Progress, SessionsRecord
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.sessions import click, log_of, make_session, purchase, refund, unlinked

SESSIONS = (topics.SESSIONS, 0)


class CrashError(Exception):
    """Stands for the death of the process inside of a transaction."""


def rows(engine: Engine, table: Table) -> list[Row[object]]:
    with engine.connect() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key)))


def written(engine: Engine) -> list[list[Row[object]]]:
    return [rows(engine, table) for table in FACT_TABLES]


def writer(engine: Engine) -> FactWriter:
    opened = FactWriter(engine)
    opened.open({SESSIONS: 0})
    return opened


def test_a_session_becomes_one_row_of_counts(store_engine: Engine) -> None:
    session = make_session(
        "q1",
        "c1",
        events=[click("e1", 3), click("e2", 3), click("e3", 4)],
        lines=[
            purchase("t1", 3, 500, quantity=2),
            purchase("t1", 4, 250),
            purchase("t2", 3, 100),
            purchase("t3", 5, 999, currency="USD"),
            refund("t1", 3, 500),
        ],
    )
    applied = writer(store_engine).apply(log_of([session]))
    assert (applied.num_sessions, applied.num_written, applied.num_refused) == (1, 1, 0)
    (fact,) = rows(store_engine, session_facts)
    assert fact._mapping["n_items"] == 10
    assert {key: fact._mapping[key] for key in ("clicks", "carts", "orders", "units")} == {
        "clicks": 2,
        "carts": 0,
        "orders": 3,
        "units": 4,
    }
    assert (fact._mapping["gross_minor"], fact._mapping["refund_minor"], fact._mapping["foreign_lines"]) == (
        850,
        500,
        1,
    )
    assert (fact._mapping["experiment"], fact._mapping["arm"], fact._mapping["bucket"]) == ("first", "control", 17)
    assert [row._mapping["transaction_id"] for row in rows(store_engine, session_orders)] == ["t1", "t2", "t3"]


@pytest.mark.parametrize("part", ["canary", "control", None])
def test_a_fact_keeps_the_slice_of_its_client(store_engine: Engine, part: Slice | None) -> None:
    sink = writer(store_engine)
    for revision in (0, 1):
        sink.apply(log_of([replace(make_session("q1", "c1", revision=revision), slice=part)], first=revision))
        (fact,) = rows(store_engine, session_facts)
        assert (fact._mapping["revision"], fact._mapping["slice"]) == (revision, part)


def test_revisions_replace_and_copies_unite(store_engine: Engine) -> None:
    sink = writer(store_engine)
    closed = make_session("q1", "c1", events=[click("e1", 3)])
    copy_with_more = make_session("q1", "c1", events=[click("e1", 3), click("e2", 4)])
    corrected = make_session("q1", "c1", revision=1, events=[click("e1", 3)], lines=[purchase("t1", 3, 500)])
    sink.apply(log_of([closed]))
    sink.apply(log_of([corrected], first=1))
    assert sink.apply(log_of([closed], first=2)).num_written == 0
    sink.apply(log_of([copy_with_more], first=3))
    (fact,) = rows(store_engine, session_facts)
    assert (fact._mapping["revision"], fact._mapping["clicks"], fact._mapping["orders"]) == (1, 2, 1)


def test_first_exposure_stands_and_a_second_arm_is_marked(store_engine: Engine) -> None:
    sink = writer(store_engine)
    sink.apply(log_of([make_session("q2", "c1", impression_ts=2_000), make_session("q3", "c2", impression_ts=2_000)]))
    sink.apply(log_of([make_session("q1", "c1", impression_ts=1_000, version="0")], first=2))
    sink.apply(log_of([make_session("q4", "c2", impression_ts=3_000, arm="treatment")], first=3))
    sink.apply(log_of([make_session("q5", "c3", arm=None)], first=4))
    first, second = (row._mapping for row in rows(store_engine, exposures))
    assert (first["client_id"], first["first_ts"], first["version"], first["multi_arm"]) == ("c1", 1_000, "0", False)
    assert (second["client_id"], second["first_ts"], second["arm"], second["multi_arm"]) == (
        "c2",
        2_000,
        "control",
        True,
    )


CONTENTS: Sequence[SessionsRecord] = [
    make_session("q1", "c1", events=[click("e1", 3)]),
    make_session("q1", "c1", events=[click("e2", 4)]),
    make_session("q1", "c1", revision=1, events=[click("e1", 3)], lines=[purchase("t1", 3, 500)]),
    make_session("q1", "c1", revision=2, events=[click("e1", 3)], lines=[purchase("t1", 3, 500), refund("t1", 3, 500)]),
    make_session("q2", "c1", arm="treatment", impression_ts=1_000),
    make_session("q3", "c2", impression_ts=5_000),
    unlinked("c1", "t1", 900),
    unlinked("c1", "t1", 900, refund_id="r9"),
    unlinked("c1", "t2", 300),
]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(list(range(len(CONTENTS)))),
    repeats=st.lists(st.integers(0, len(CONTENTS) - 1), max_size=4),
    size=st.integers(1, 4),
)
def test_order_repeats_and_batches_change_nothing(order: list[int], repeats: list[int], size: int) -> None:
    results = []
    for chosen, batch in (([*order, *repeats], size), (list(range(len(CONTENTS))), len(CONTENTS))):
        engine = create_engine("sqlite://")
        db.metadata.create_all(engine, tables=[*FACT_TABLES, traffic_minutes, sink_offsets])
        sink = writer(engine)
        log = log_of([CONTENTS[index] for index in chosen])
        for start in range(0, len(log), batch):
            sink.apply(log[start : start + batch])
        results.append(written(engine))
        engine.dispose()
    assert results[0] == results[1]


@pytest.mark.parametrize("where", ["exposures written", "facts written", "orders written", "offsets written"])
def test_a_crash_inside_a_batch_leaves_nothing(store_engine: Engine, where: str) -> None:
    log = log_of(CONTENTS)
    clean = writer(store_engine)
    clean.apply(log[:2])
    before = written(store_engine), rows(store_engine, sink_offsets)

    def crash(name: str) -> None:
        if name == where:
            raise CrashError

    broken = FactWriter(store_engine, failpoint=crash)
    assert broken.open({SESSIONS: 0}) == {SESSIONS: 2}
    with pytest.raises(CrashError):
        broken.apply(log[2:])
    assert (written(store_engine), rows(store_engine, sink_offsets)) == before

    resumed = FactWriter(store_engine)
    assert resumed.open({SESSIONS: 0}) == {SESSIONS: 2}
    resumed.apply(log[2:])
    assert resumed.positions == {SESSIONS: len(log)}
    assert [fact._mapping["revision"] for fact in rows(store_engine, session_facts)] == [2, 0, 0]


def test_a_stale_sink_is_refused(store_engine: Engine) -> None:
    stale, fresh = writer(store_engine), writer(store_engine)
    fresh.apply(log_of(CONTENTS[:1]))
    with pytest.raises(FencedError, match="stored offsets sessions/0: 1, this sink stands at sessions/0: 0"):
        stale.apply(log_of(CONTENTS[1:3]))
    assert len(rows(store_engine, session_facts)) == 1


def test_a_commit_whose_answer_was_lost_is_not_taken_for_another_sink(store_engine: Engine) -> None:
    lost, other = writer(store_engine), writer(store_engine)
    other.apply(log_of(CONTENTS))
    assert lost.apply(log_of(CONTENTS), retry=True).num_written == 0
    assert lost.positions == {SESSIONS: len(CONTENTS)}


def test_what_is_no_session_is_counted_and_passed(store_engine: Engine) -> None:
    sink = writer(store_engine)
    progress = Progress(partition=0, watermark_ts=7, matured_ts=5, now_ts=9, counters={})
    applied = sink.apply(log_of([b"\xc1", CONTENTS[0], b"", progress, unlinked("c1", "t9")]))
    assert (applied.num_sessions, applied.num_refused) == (1, 2)
    (offset,) = (row._mapping for row in rows(store_engine, sink_offsets))
    assert (offset["next_offset"], offset["watermark_ts"], offset["matured_ts"]) == (5, 7, 5)


def test_text_that_a_database_refuses_is_stored_without_it(store_engine: Engine) -> None:
    writer(store_engine).apply(log_of([make_session("q\0", "c\0", arm="a\0", lines=[purchase("t\0", 1, 5)])]))
    (fact,) = rows(store_engine, session_facts)
    assert (fact._mapping["query_id"], fact._mapping["client_id"], fact._mapping["arm"]) == (
        "q\ufffd",
        "c\ufffd",
        "a\ufffd",
    )
