"""Lists as served: what their features may hold, and where they were displayed."""

import numpy as np
import pytest

from stream.errors import SchemaError
from tests.trainer.lists import catalogue, served
from trainer.features import CONTEXT_COLUMNS, ITEM_COLUMNS, example_from_session
from trainer.features.served_list import displayed_positions

KNOWN = catalogue()


def test_tokens_outside_of_their_range_are_refused() -> None:
    session = served(1, KNOWN, n=5).session(range(5))
    context = session.column("context_f16").copy()
    context[CONTEXT_COLUMNS.index("token_2")] = 2_050
    session.context_f16 = context.tobytes()
    with pytest.raises(SchemaError, match=r"feature_range: query q1: tokens .*2050.*, expected 0 to 2047"):
        example_from_session(session, KNOWN)


@pytest.mark.parametrize(
    ("logged", "expected"),
    [((), [2, 3, 1]), ((3, 7, 9), [7, 9, 3]), ((0, 4, 9), [5, 10, 1])],
    ids=["whole", "parts", "parts from 0"],
)
def test_displayed_positions_count_from_one(logged: tuple[int, ...], expected: list[int]) -> None:
    session = served(1, KNOWN, n=3).session([2, 0, 1])
    session.position = np.array(logged, "<u4").tobytes()
    session.latency_us = 2_500
    example = example_from_session(session, KNOWN)
    assert example.position.tolist() == expected
    shown = displayed_positions(session)
    assert [shown[session.item_id.index(item_id)] for item_id in example.item_ids] == expected
    assert example.latency_ms == 2.5


def test_features_of_another_schema_or_shape_are_refused() -> None:
    session = served(1, KNOWN, n=5).session(range(5))
    session.feature_schema = b"\1" * 32
    with pytest.raises(SchemaError, match="feature_schema"):
        example_from_session(session, KNOWN)
    session = served(1, KNOWN, n=5).session(range(5))
    session.item_f16 = session.item_f16[:-2]
    with pytest.raises(SchemaError, match="feature_shape"):
        example_from_session(session, KNOWN)
    session = served(1, KNOWN, n=5).session(range(5))
    session.item_f16 = np.full(5 * len(ITEM_COLUMNS), np.nan, "<f2").tobytes()
    with pytest.raises(SchemaError, match="feature_not_finite"):
        example_from_session(session, KNOWN)
