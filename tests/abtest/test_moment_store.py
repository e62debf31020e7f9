"""Stored sums against the facts, under histories in any order, with copies, corrections and crashes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import structs
from sqlalchemy import Engine

from abtest import moment_rows, moment_store, queries, ramp_health
from abtest.client_vectors import client_vectors
from abtest.erasure import erase
from abtest.exact_sums import ExactSums
from abtest.fact_writer import FactWriter
from abtest.moment_rows import MATURED, SETTLED
from abtest.plan import Plan
from abtest.ramp import ramp
from abtest.rebuild import rebuild, sums_of
from abtest.store import ExperimentStore
from stream import db
from stream.schemas import topics
from stream.schemas.session import Progress, Session, SessionsRecord
from tests.harness.generated_facts import ARMS, LAST_TS, append, fill, generate
from tests.harness.sessions import click, log_of, make_session, purchase, refund, unlinked
from tests.harness.stores import new_store

PLAN = Plan(attribution_s=1, refund_s=1)
CLIENTS = 4
STEPS = (0, 900, 1_400, 1_800, 2_500, 4_000, 9_000)


def reached(matured_ts: int) -> Progress:
    return Progress(partition=0, watermark_ts=9_000, matured_ts=matured_ts, now_ts=9_000, counters={})


@st.composite
def sessions_of_a_day(draw: st.DrawFn) -> list[SessionsRecord]:
    """Draw sessions of few clients, some in a second arm or another currency, each with an optional correction."""
    found: list[SessionsRecord] = []
    for number in range(draw(st.integers(2, 9))):
        client = f"c{draw(st.integers(0, CLIENTS - 1))}"
        shown_ts = draw(st.integers(400, 2_400))
        own = draw(st.sampled_from(("control", "treatment", "control", "treatment", "other")))
        currency = draw(st.sampled_from(("EUR", "EUR", "EUR", "XXX", "USD")))
        lines = [
            purchase(
                f"t{draw(st.integers(0, 2))}", item, draw(st.integers(1, 900)), currency=currency, event_ts=bought_ts
            )
            for item, bought_ts in enumerate(draw(st.lists(st.integers(1_000, 3_900), max_size=2)))
        ]
        session = make_session(
            f"q{number}", client, arm=own, impression_ts=shown_ts, currency=currency, lines=lines, latency_us=number
        )
        session.assignment[0] = structs.replace(session.assignment[0], epoch=draw(st.sampled_from((1, 1, 1, 2, 7))))
        found.append(session)
        if draw(st.booleans()):
            more = [refund(line.transaction_id, line.item, 5, event_ts=4_000) for line in lines[:1]]
            moved = structs.replace(session, revision=2, lines=[*lines, *more], events=[click(f"e{number}", 1)])
            found.append(structs.replace(moved, client_id=draw(st.sampled_from((client, "c0")))))
    for number in range(draw(st.integers(0, 2))):
        client = f"c{draw(st.integers(0, CLIENTS - 1))}"
        found.append(
            unlinked(client, f"u{number}", draw(st.integers(1, 900)), event_ts=draw(st.integers(1_000, 3_900)))
        )
    return found


def check(engine: Engine) -> None:
    """Compare the stored sums with the facts, exactly, and their moments with those of the clients' vectors."""
    with db.read(engine) as connection:
        for followed in moment_store.of_layer(connection, None):
            for name in (MATURED, SETTLED):
                key = followed.whole.experiment
                state = moment_rows.cut(connection, key, name)
                if state is None:
                    continue
                assert state.epochs == followed.whole.epochs
                clients = moment_store.states_of_facts(connection, followed.at(state))
                assert moment_rows.client_states(connection, key, name) == clients
                stored = {
                    cell: sums for cell, sums in moment_rows.arms(connection, key, name).items() if any_client(sums)
                }
                assert stored == sums_of(clients.values())
                vectors = client_vectors(connection, followed.at(state))
                for (epoch, arm), sums in stored.items():
                    own = vectors[arm].vectors[vectors[arm].epochs == epoch]
                    assert len(own) == sums.clients
                    if len(own):
                        moments = sums.moments
                        np.testing.assert_allclose(moments.mean, own.mean(axis=0), rtol=1e-9)
                        centred = own - own.mean(axis=0)
                        np.testing.assert_allclose(moments.comoment, centred.T @ centred, rtol=1e-9, atol=1e-6)


def any_client(sums: ExactSums) -> bool:
    return bool(sums.clients or sums.multi_arm)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    records=sessions_of_a_day(),
    order=st.lists(st.integers(0, 99), max_size=30),
    maturities=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
    crashes=st.lists(st.booleans(), min_size=1, max_size=4),
    stop_at=st.sampled_from((None, None, 0, 2)),
)
def test_stored_sums_are_those_of_the_facts_after_each_batch(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[SessionsRecord],
    order: list[int],
    maturities: list[int],
    crashes: list[bool],
    stop_at: int | None,
) -> None:
    """Batches in any order, with copies and crashes, and with steps of two sessions for the cuts."""
    engine = db.create(new_store(tmp_path_factory.mktemp("law") / "store.db"))
    store = ExperimentStore(engine)
    store.create(key="first", arms=ARMS, now_ts=500, plan=PLAN)
    shuffled = [*records, *(records[index % len(records)] for index in order)]
    offset = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moment_store, "_MAX_STEP", 2)
        for number, matured_ts in enumerate(sorted(maturities)):
            if number == stop_at:
                store.stop("first", now_ts=1_900)
            batch = [*shuffled[number :: len(maturities)], reached(matured_ts)]
            if crashes[number % len(crashes)]:
                crash(engine, log_of(batch, first=offset))
            writer = FactWriter(engine, refund_s=PLAN.refund_s)
            writer.open({(topics.SESSIONS, 0): 0})
            writer.apply(log_of(batch, first=offset))
            offset += len(batch)
            check(engine)
        erase(engine, "c0")
        check(engine)
    assert all(
        found.is_equal or not found.is_of_plan for found in rebuild(engine, "first", pause=lambda _seconds: None)
    )
    assert all(found.is_equal for found in rebuild(engine, "first", pause=lambda _seconds: None))
    check(engine)
    engine.dispose()


def crash(engine: Engine, records: Sequence[object]) -> None:
    def fail(step: str) -> None:
        if step == "moments written":
            raise RuntimeError(step)

    broken = FactWriter(engine, refund_s=PLAN.refund_s, failpoint=fail)
    broken.open({(topics.SESSIONS, 0): 0})
    with pytest.raises(RuntimeError, match="moments written"):
        broken.apply(records)  # type: ignore[arg-type]


def test_a_report_is_the_same_from_stored_sums_and_from_facts(
    store_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, _ = generate(seed=15, num_clients=40)
    fill(store_engine, sessions, matured_ts=2_900, plan=Plan(refund_s=1))
    check(store_engine)
    store = ExperimentStore(store_engine)
    experiment, epochs = store.get("first"), store.epochs("first")
    with db.read(store_engine) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(queries, "client_vectors", None)
            stored = queries.read(connection, experiment, epochs)
        monkeypatch.setattr(moment_store, "stored", lambda *_of: None)
        found = queries.read(connection, experiment, epochs)
    assert (stored.counts, stored.data_range) == (found.counts, found.data_range)
    assert found.settled["control"].moments.n < found.matured["control"].moments.n
    for one, other in ((stored.matured, found.matured), (stored.settled, found.settled)):
        for arm, sample in one.items():
            np.testing.assert_allclose(sample.moments.mean, other[arm].moments.mean, rtol=1e-9)
            np.testing.assert_allclose(sample.moments.comoment, other[arm].moments.comoment, rtol=1e-9, atol=1e-6)
            same = other[arm]
            assert (sample.buyers, sample.clicked_buyers) == (same.buyers, same.clicked_buyers)
            assert sample.by_epoch.keys() == same.by_epoch.keys()


def test_sums_of_other_sessions_than_the_wanted_are_not_given(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=10)
    fill(store_engine, sessions, plan=Plan(refund_s=0))
    with db.read(store_engine) as connection:
        (followed,) = moment_store.of_layer(connection, "ranker")
        state = moment_rows.cut(connection, "first", MATURED)
        assert state is not None
        wanted = followed.at(state)
        assert moment_store.stored(connection, wanted, MATURED)
        for other in (wanted.until(LAST_TS - 1), replace(wanted, currency="USD"), replace(wanted, epochs=(1, 2))):
            assert moment_store.stored(connection, other, MATURED) is None
        assert list(moment_store.of_layer(connection, "other")) == []


def test_a_session_that_named_an_epoch_before_it_began_counts_from_then_on(
    store_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ramp_health, "read", lambda *_of: ((), None))
    early = make_session("early", "c1", impression_ts=1_000)
    early.assignment[0] = structs.replace(early.assignment[0], epoch=2)
    others: list[Session] = [make_session(f"q{number}", f"d{number}", impression_ts=1_000) for number in range(3)]
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=500, plan=PLAN, share=0.5)
    append(store_engine, [early, *others], matured_ts=2_000)
    check(store_engine)
    ramp(store_engine, "first", 1.0, now_ts=3_000, reason="test")
    append(store_engine, [], matured_ts=2_500)
    check(store_engine)
    with db.read(store_engine) as connection:
        assert "c1" in moment_rows.client_states(connection, "first", MATURED)
