"""Logged columns of items and context."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SchemaError
from tests.trainer.lists import item
from trainer.features import (
    CONTEXT_COLUMNS,
    FEATURE_SCHEMA,
    ITEM_COLUMNS,
    SCHEMAS,
    context_f16,
    item_f16,
    schema_of,
)
from trainer.features.schema import newest_columns

PINNED = {
    1: "d6895f4ce90acbac83c668b9c70529c4273fa87b2b405321184a128b3a51e223",
    2: "39cebc25dccaf1da72beb0b0216bcabbdcab0c687eb56c919ce8facf3dd060ad",
}


def test_schemas_are_pinned() -> None:
    # A change of columns or scaling is a new schema: logs and versions name the one they were made with.
    assert {number: schema.sha256 for number, schema in SCHEMAS.items()} == PINNED
    assert PINNED[2] == FEATURE_SCHEMA


def test_an_unknown_schema_is_named_beside_the_known_ones() -> None:
    assert schema_of(PINNED[1]).number == 1
    with pytest.raises(SchemaError, match=f"feature schema beef is unknown; known: 1 .{PINNED[1]}.*, 2 .{PINNED[2]}"):
        schema_of("beef")


def test_columns_that_were_not_logged_have_their_default() -> None:
    rows = np.array([[1, 2], [3, 4]], np.float16)
    assert newest_columns(rows, ("page", "hour_sin"), ("hour_sin", "token_1", "page")).tolist() == [
        [2, 0, 1],
        [4, 0, 3],
    ]
    assert newest_columns(rows, ("page", "hour_sin"), ("page", "hour_sin")) is rows
    with pytest.raises(KeyError, match="price"):
        newest_columns(rows, ("page", "hour_sin"), ("price",))


def test_item_columns_by_hand() -> None:
    known = item("a", 1_999, rating=4.5, promotion=True)
    known.sales_28d = 7
    known.image_vec = b"\0\0"
    rows = item_f16([known, None, item("b", 0, rating="good")], [999, None, None]).astype(np.float64)
    expected = [
        [np.log1p(9.99), np.log1p(7), 4.5, 1, 1, 1, 1, 0],
        [0] * 8,
        [0, 0, 0, 0, 1, 0, 0, 0],
    ]
    assert rows == pytest.approx(np.array(expected), rel=1e-3)
    assert rows.shape == (3, len(ITEM_COLUMNS))


@given(
    st.lists(
        st.one_of(
            st.none(), st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**400), 10**400), st.text()
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**53),
)
def test_item_columns_are_finite_for_any_attribute(ratings: list[object], price_minor: int) -> None:
    items = [item(f"i{row}", price_minor, rating=rating, promotion=rating) for row, rating in enumerate(ratings)]
    assert np.isfinite(item_f16(items)).all()


def test_context_by_hand() -> None:
    six_utc = context_f16(event_ts=6 * 3_600_000, page=2, age_band="25-34", gender="female").astype(np.float64)
    named = dict(zip(CONTEXT_COLUMNS, six_utc.tolist(), strict=True))
    assert named["hour_sin"] == pytest.approx(1)
    assert named["hour_cos"] == pytest.approx(0, abs=1e-6)
    assert named["page"] == pytest.approx(np.log(3), rel=1e-3)
    assert [name for name, value in named.items() if value == 1 and name.startswith(("age", "gender"))] == [
        "age_25-34",
        "gender_female",
    ]
    assert named["has_total_hits"] == 0
    assert (context_f16(event_ts=0, age_band="65+") == context_f16(event_ts=0, age_band="55+")).all()
    stranger = dict(zip(CONTEXT_COLUMNS, context_f16(event_ts=0, age_band="?", total_hits=9).tolist(), strict=True))
    assert stranger["age_unknown"] == stranger["gender_unknown"] == stranger["has_total_hits"] == 1


def test_tokens_and_vector_follow_the_client() -> None:
    context = context_f16(event_ts=0, tokens=[7, 2_047], query_vector=[0.25, -1])
    named = dict(zip(CONTEXT_COLUMNS, context.tolist(), strict=False))
    assert [named[f"token_{number}"] for number in range(1, 9)] == [7, 2_047, 0, 0, 0, 0, 0, 0]
    assert context[len(CONTEXT_COLUMNS) :].tolist() == [0.25, -1]
