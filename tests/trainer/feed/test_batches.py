"""Sessions and checkpoint boundaries cut from ordered records."""

import numpy as np
import pytest

from tests.trainer.session_log import START_TS, make_session
from trainer.feed.batches import Batcher, Boundaries, CheckpointBoundary, Position, SessionBatch
from trainer.feed.merge import Cursor, OrderedRecord, WatermarkMerge

GRID = Boundaries(checkpoint_ms=20_000, publish_ms=40_000)


def released(watermarks: list[int]) -> list[OrderedRecord]:
    rng = np.random.default_rng(0)
    merge = WatermarkMerge({0: Cursor(next_offset=0)})
    for number, watermark_ts in enumerate(watermarks):
        merge.push(0, number, make_session(number, rng, watermark_ts=START_TS + watermark_ts))
    return list(merge.release())


def test_boundaries_stand_between_the_sessions_that_cross_the_grid() -> None:
    cutter = Batcher(GRID, Position(cursors={0: Cursor(next_offset=0)}))
    elements = list(cutter.cut(released([0, 1, 2, 3, 10_000, 20_000, 45_000])))
    sizes = [len(element.sessions) if isinstance(element, SessionBatch) else element for element in elements]
    assert sizes == [
        CheckpointBoundary(START_TS, publish=False, first=True),
        5,
        CheckpointBoundary(START_TS + 20_000, publish=False),
        1,
        CheckpointBoundary(START_TS + 40_000, publish=True),
        1,
    ]


def test_a_position_goes_on_where_it_was_taken() -> None:
    stream = released([0, 1, 15_000, 21_000, 22_000, 43_000, 70_000])
    whole = Batcher(GRID, Position(cursors={0: Cursor(next_offset=0)}))
    elements: list[SessionBatch | CheckpointBoundary] = []
    positions: list[tuple[int, Position]] = []
    for element in whole.cut(stream):
        elements.append(element)
        if isinstance(element, CheckpointBoundary):
            positions.append((len(elements), whole.position))
    assert len(positions) == 4
    for count, position in positions:
        rest = [one for one in stream if one.key.offset >= position.cursors[0].next_offset]
        assert list(Batcher(GRID, position).cut(rest)) == elements[count:]


def test_publish_grid_must_be_a_multiple_of_the_checkpoint_grid() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Boundaries(checkpoint_ms=20_000, publish_ms=30_000)
