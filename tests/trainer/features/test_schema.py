"""Logged columns of items and context."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.lists import item
from trainer.features import (
    CONTEXT_COLUMNS,
    FEATURE_SCHEMA,
    ITEM_COLUMNS,
    context_f16,
    item_f16,
)


def test_schema_is_pinned() -> None:
    # A change of columns or scaling must change this number, and with it every lineage.
    assert FEATURE_SCHEMA == "d6895f4ce90acbac83c668b9c70529c4273fa87b2b405321184a128b3a51e223"


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
