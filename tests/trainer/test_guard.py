"""Faults in a log that has been sound before: each is left out, by range, until the log is sound again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from stream import db
from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop, weights
from tests.trainer.session_log import START_TS, broken_log, make_items, make_session, without_labels
from trainer.feed.batches import OrderedSession, Position, SessionBatch
from trainer.feed.merge import Cursor, Key
from trainer.guard import Guard, Records
from trainer.learning.learner import Learner
from trainer.pauses import Pauses
from trainer.quarantine.store import Quarantine
from trainer.rollout.store import RolloutStore
from trainer.versions.registry import Registry

NARROW = replace(SETTINGS, breaker_lists=20, breaker_windows=3)
_WINDOW = 40
Fault = Callable[[Session], Session]


def make_engine(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


def as_column(values: object) -> bytes:
    return np.asarray(values).astype("<u2").tobytes()


def flipped(one: Session) -> Session:
    return msgspec.structs.replace(one, clicks=as_column(one.column("clicks") == 0), orders=as_column(np.zeros(one.n)))


def without_orders(one: Session) -> Session:
    return msgspec.structs.replace(one, orders=as_column(np.zeros(one.n)))


def without_prices(one: Session) -> Session:
    rows = one.column("item_f16").reshape(one.n, -1).copy()
    rows[:, 0] = 0
    return msgspec.structs.replace(one, item_f16=rows.tobytes())


def without_history(one: Session) -> Session:
    return msgspec.structs.replace(one, hist_item=[], hist_category=[], hist_action=b"", hist_age_s=b"")


def unreadable(one: Session) -> Session:
    return msgspec.structs.replace(one, item_f16=np.full(len(one.item_f16) // 2, np.nan, "<f2").tobytes())


class Log:
    """Windows of a log, one after the other, before a guard of their own."""

    def __init__(self, folder: Path, learner: Learner) -> None:
        self.engine = make_engine(folder)
        registry = Registry(self.engine)
        registry.ensure_lineage("test", "prm", "tiny", "h")
        term = registry.leases.acquire("test", "one", 0, 10)
        self.learner = learner
        self.records = Records(
            quarantine=Quarantine(self.engine),
            lineage="test",
            term=term,
            now_ms=lambda: 5,
            pauses=Pauses(monotonic_s=lambda: 0.0, wait=lambda _: True, random=lambda: 0.0),
        )
        self.position = Position(cursors={0: Cursor(next_offset=0)})
        self.guard = Guard(self.learner, self.records, NARROW, self.position)
        self.catalogue = Catalogue()
        for item in make_items():
            self.catalogue.put(item)
        self._rng = np.random.default_rng(4)

    def window(self, fault: Fault = lambda one: one, *, held: int = 0, holds: bool = False) -> int:
        """Read a window of lists and return how many of them are to be learned."""
        first = self.position.cursors[0].next_offset
        placed = []
        for number in range(first, first + _WINDOW):
            own = make_session(number, self._rng, watermark_ts=START_TS + number * 1_000, orders=[0])
            placed.append(OrderedSession(Key(own.watermark_ts, 0, number), fault(own)))
        self.guard.take(SessionBatch(tuple(placed), (True,) * held + (False,) * (_WINDOW - held)))
        until_ts = START_TS + (first + _WINDOW) * 1_000
        self.position = Position(
            cursors={0: Cursor(next_offset=first + _WINDOW, watermark_ts=until_ts - 1_000)},
            boundary_ts=until_ts,
            holds=(0,) if holds else (),
        )
        return sum(len(each.sessions) for each in self.guard.judged(self.position, self.catalogue))


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner("prm", LINEAGE.config, LINEAGE.learning, device=torch.device("cpu"))


@pytest.fixture
def log(tmp_path: Path, learner: Learner) -> Log:
    learner.counters.clear()
    found = Log(tmp_path, learner)
    assert [found.window() for _ in range(5)] == [_WINDOW] * 5
    return found


@pytest.mark.parametrize(
    ("fault", "breaker"),
    [
        (flipped, "click_rate"),
        (without_labels, "click_rate"),
        (without_orders, "order_rate"),
        (without_prices, "null_price"),
        (without_history, "null_history"),
        (unreadable, "null_readable"),
    ],
)
def test_a_fault_of_the_data_is_left_out_until_it_is_over(log: Log, fault: Fault, breaker: str) -> None:
    assert [log.window(fault) for _ in range(2)] == [0, 0]
    assert breaker in log.guard.open
    assert breaker in (log.guard.why_not_learning or "")
    assert log.window() == _WINDOW
    assert not log.guard.open
    assert log.guard.why_not_learning is None
    first, second = log.records.quarantine.ranges("test")
    assert breaker in first.range.reasons
    assert breaker in first.range.numbers
    assert (first.range.from_cursors["0"][0], first.range.until_offsets["0"]) == (5 * _WINDOW, 6 * _WINDOW)
    assert (second.range.from_cursors["0"][0], second.range.until_offsets["0"]) == (6 * _WINDOW, 7 * _WINDOW)
    assert first.range.until_ts == second.range.from_ts
    assert log.learner.counters["breaker"] == 2 * _WINDOW
    assert [event.to_status for event in RolloutStore(log.engine).history("test")] == ["breaker"] * 3


def test_a_loss_that_explodes_keeps_sessions_out_while_it_lasts(log: Log) -> None:
    dense = [own for name, own in log.learner.params.items() if not name.startswith("rows.")]
    before = [own.detach().clone() for own in dense]
    noise = torch.Generator().manual_seed(1)
    for size, learned in ((10.0, 0), (20.0, 0), (0.0, _WINDOW)):
        with torch.no_grad():
            for own, its in zip(dense, before, strict=True):
                own.copy_(its + size * torch.randn(its.shape, generator=noise))
        assert log.window() == learned
    assert [each.range.reasons for each in log.records.quarantine.ranges("test")] == [("loss",)] * 2


def test_a_hold_in_the_log_keeps_the_whole_window_out(log: Log) -> None:
    assert log.window(held=10, holds=True) == 0
    assert "hold" in log.guard.open
    assert log.window(held=5) == 0, "a hold that ends within a window"
    assert log.window() == _WINDOW
    assert not log.guard.open
    assert (log.learner.counters["held"], log.learner.counters["breaker"]) == (15, 2 * _WINDOW - 15)
    assert [each.range.reasons for each in log.records.quarantine.ranges("test")] == [("hold",)] * 2


def test_what_a_user_accepts_closes_the_breakers_that_left_it_out(log: Log) -> None:
    assert log.window(without_prices) == 0
    log.guard.accept(("click_rate",))
    assert list(log.guard.open) == ["null_price"], "another range has to be accepted"
    log.guard.accept(("null_price",))
    assert not log.guard.open
    (only,) = log.records.quarantine.ranges("test")
    assert not only.is_open
    assert log.window(without_prices) == _WINDOW
    log.guard.accept(("null_price",))
    assert len(RolloutStore(log.engine).history("test")) == 2, "what is closed stays closed"


def test_breakers_that_are_off_leave_nothing_out(log: Log) -> None:
    log.guard = Guard(log.learner, log.records, replace(NARROW, breakers=False), log.position)
    assert [log.window(without_labels), log.window(held=_WINDOW, holds=True)] == [_WINDOW] * 2
    assert not log.guard.open


@pytest.mark.no_cover
def test_a_run_leaves_out_and_publishes_nothing_meanwhile_and_resumes_to_equal_weights(tmp_path: Path) -> None:
    log = broken_log()
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    engine = make_engine(tmp_path / "whole")
    loop = make_loop(tmp_path / "whole", engine, settings=NARROW)
    feed(loop, log)
    ranges = Quarantine(engine).ranges("test")
    assert [each.range.reasons for each in ranges] == [("click_rate", "order_rate")] * 2 + [("order_rate",)], (
        "orders are rarer, so it takes longer to say that they came back"
    )
    assert loop.learner.counters["breaker"] == sum(each.range.num_sessions for each in ranges)
    assert loop.guard.num_ranges == 3
    # A version is due at each 40 s; the one at 200 s is not published.
    assert loop.progress.version == 5

    cut = make_engine(tmp_path / "cut")
    offsets = [each.range.until_offsets for each in ranges]
    crashed = make_loop(tmp_path / "cut", cut, settings=NARROW)
    crashed.start()
    until = [record for record in log if record.offset < offsets[0][str(record.partition)] + 3]
    crashed.push(until)
    assert len(Quarantine(cut).ranges("test")) == 1
    resumed = make_loop(tmp_path / "cut", cut, settings=NARROW)
    feed(resumed, log)
    assert weights(resumed) == weights(loop)
    assert dict(resumed.learner.counters) == dict(loop.learner.counters)
    assert [each.range for each in Quarantine(cut).ranges("test")] == [each.range for each in ranges]
