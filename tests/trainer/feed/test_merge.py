import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.schemas.session import Progress, Session
from tests.trainer.session_log import START_TS, make_progress, make_session
from trainer.feed.batches import Batcher, Boundaries, Position, SessionBatch
from trainer.feed.merge import Cursor, WatermarkMerge

Log = dict[int, list[Session | Progress]]
GRID = Boundaries(checkpoint_ms=20_000, publish_ms=40_000)


def make_partitions(steps: list[tuple[int, int, bool]], partitions: int) -> Log:
    """Build a log from (partition, milliseconds on, progress?) steps; watermarks may stand still or step back."""
    rng = np.random.default_rng(0)
    log: Log = {partition: [] for partition in range(partitions)}
    clock = START_TS
    for number, (partition, step, is_progress) in enumerate(steps):
        clock += step
        record = make_progress(partition, clock) if is_progress else make_session(number, rng, watermark_ts=clock)
        log[partition].append(record)
    for partition in range(partitions):
        log[partition].append(make_progress(partition, clock + 100_000))
    return log


def cut_all(log: Log, order: list[int]) -> list[tuple[str, object]]:
    """Push the records of partitions in `order` (a partition per step, then the rest) and describe what comes out."""
    cursors = {partition: Cursor(next_offset=0) for partition in log}
    merge, cutter = WatermarkMerge(cursors), Batcher(GRID, Position(cursors=cursors))
    pushed = dict.fromkeys(log, 0)
    found: list[tuple[str, object]] = []
    rest = [partition for partition in log for _ in log[partition]]
    for partition in [*(p % len(log) for p in order), *rest]:
        offset = pushed[partition]
        if offset < len(log[partition]):
            pushed[partition] += 1
            merge.push(partition, offset, log[partition][offset])
            for element in cutter.cut(merge.release()):
                if isinstance(element, SessionBatch):
                    found += [("session", placed.key) for placed in element.sessions]
                else:
                    found.append(("mark", (element, cutter.position)))
    return found


STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(-300, 6_000), st.booleans()), max_size=30)


@settings(deadline=None, max_examples=50)
@given(STEPS, st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_any_arrival_order_gives_the_same_sessions_and_marks(
    steps: list[tuple[int, int, bool]], one: list[int], other: list[int]
) -> None:
    log = make_partitions(steps, 3)
    assert cut_all(log, one) == cut_all(log, other)


@settings(deadline=None, max_examples=50)
@given(STEPS)
def test_released_order_is_the_sorted_order_and_nothing_is_lost(steps: list[tuple[int, int, bool]]) -> None:
    log = make_partitions(steps, 3)
    merge = WatermarkMerge({partition: Cursor(next_offset=0) for partition in log})
    for partition, records in log.items():
        for offset, record in enumerate(records):
            merge.push(partition, offset, record)
    keys = [released.key for released in merge.release()]
    assert keys == sorted(keys)
    sessions = sum(isinstance(record, Session) for records in log.values() for record in records)
    assert len(keys) >= sessions


def test_nothing_is_released_before_every_partition_has_spoken() -> None:
    merge = WatermarkMerge({0: Cursor(next_offset=0), 1: Cursor(next_offset=0)})
    merge.push(0, 0, make_progress(0, START_TS))
    assert list(merge.release()) == []
    merge.push(1, 0, make_progress(1, START_TS + 1))
    assert [released.key.partition for released in merge.release()] == [0]


def test_partitions_that_run_ahead_are_named_but_not_the_slowest() -> None:
    merge = WatermarkMerge({0: Cursor(next_offset=0), 1: Cursor(next_offset=0)})
    for offset in range(5):
        merge.push(0, offset, make_progress(0, START_TS + offset))
    list(merge.release())
    assert merge.ahead(4) == {0}
    assert merge.ahead(5) == set()


def test_an_offset_that_was_pushed_before_is_refused() -> None:
    merge = WatermarkMerge({0: Cursor(next_offset=5)})
    with pytest.raises(ValueError, match="after 5 was due"):
        merge.push(0, 4, make_progress(0, START_TS))
