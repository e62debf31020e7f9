"""A full copy with a delta put in equals the later full copy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ArtifactError
from trainer.versions import delta


@given(st.integers(0, 6), st.integers(0, 4), st.data())
def test_rows_replace_those_of_the_full_copy(size: int, more: int, data: st.DataObject) -> None:
    before: dict[str, np.ndarray] = {
        "item.rows": np.zeros((size, 2), np.float32),
        "item.hash": np.zeros(size, np.uint64),
    }
    changed = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size)) if size else set())
    places = np.array([*changed, *range(size, size + more)], np.int32)
    rows, hashes = np.zeros((size + more, 2), np.float32), np.zeros(size + more, np.uint64)
    after: dict[str, np.ndarray] = {"item.rows": rows, "item.hash": hashes}
    for number, place in enumerate(places, 1):
        rows[place], hashes[place] = number, number
    sent = {name: array[places] for name, array in after.items()}
    found = delta.put_in(before, sent | {"item.places": places, "item.waiting": np.ones(3)}, ("rows", "hash"))
    assert sorted(found) == ["item.hash", "item.rows", "item.waiting"]
    for name, array in after.items():
        np.testing.assert_array_equal(found[name], array)


ROWS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "sent",
    [
        {"item.rows": ROWS},
        {"item.rows": ROWS, "item.places": np.array([1])},
        {"item.rows": ROWS, "item.places": np.array([1, 1])},
        {"item.rows": ROWS, "item.places": np.array([-1, 1])},
        {"item.rows": ROWS, "item.places": np.array([4, 6])},
        {"item.rows": ROWS[:, :2], "item.places": np.array([0, 1])},
        {"item.rows": ROWS.astype(np.float16), "item.places": np.array([0, 1])},
        {"shop.rows": ROWS, "shop.places": np.array([0, 1])},
    ],
    ids=["no places", "too few", "twice", "negative", "gap", "width", "type", "no full copy"],
)
def test_what_does_not_fit_is_refused(sent: dict[str, np.ndarray]) -> None:
    with pytest.raises(ArtifactError, match="delta"):
        delta.put_in({"item.rows": np.zeros((4, 3), np.float32)}, sent, ("rows",))
