"""The vector space of a modality: by the number of items, or kept."""

import numpy as np
import pytest

from stream.replicas.vectors import ModalityVectors


def raw(*values: float) -> bytes:
    return np.array(values, dtype="<f2").tobytes()


def test_a_space_that_more_items_have_is_told_until_one_is_kept() -> None:
    vectors = ModalityVectors(None)
    assert not vectors.put("a", raw(1, 2), "old")
    assert not vectors.put("b", raw(1, 2), "new")
    assert vectors.put("c", raw(1, 2), "new")
    assert (vectors.space, vectors.get("a") is not None, vectors.get("b")) == ("old", True, None)
    vectors.keep()
    assert not vectors.put("d", raw(1, 2), "new")


def test_items_that_are_replaced_or_removed_do_not_count_twice() -> None:
    vectors = ModalityVectors(None)
    for item in ("a", "b", "c"):
        vectors.put(item, raw(1, 2), "old")
    assert not vectors.put("a", raw(3, 4), "new")
    assert not vectors.put("a", raw(3, 4), "new")
    vectors.remove("a")
    assert not vectors.put("b", raw(3, 4), "new")
    assert vectors.put("c", raw(3, 4), "new")
    again = vectors.in_space("new", [("b", raw(3, 4), "new"), ("c", raw(3, 4), "new"), ("d", None, None)])
    assert [again.get(item) is not None for item in "bcd"] == [True, True, False]


@pytest.mark.parametrize(
    ("space", "is_kept", "why"),
    [
        ("old", True, "2 items have vectors of the space new, and 1 of old"),
        ("new", True, "vectors of the space old are in use, and not of new"),
        ("old", False, "2 items have vectors of the space new, and 1 of old"),
        ("new", False, None),
        (None, True, None),
    ],
)
def test_a_reader_of_another_space_gets_a_reason(space: str | None, is_kept: bool, why: str | None) -> None:
    vectors = ModalityVectors("old", is_kept=is_kept)
    for item, name in (("a", "old"), ("b", "new"), ("c", "new")):
        vectors.put(item, raw(1, 2), name)
    assert vectors.why_not(space) == why


def test_without_vectors_every_reader_is_right() -> None:
    assert ModalityVectors("old", is_kept=True).why_not("old") is None
    assert ModalityVectors(None).why_not("old") is None
