"""The index finds exactly what was put and not removed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.lists import hashes
from trainer.features import hash_index
from trainer.features.hash_index import Hashes, HashIndex


def narrow(keys: list[str], bits: int) -> Hashes:
    """Hashes of integers with few distinct upper halves, so that places and halves collide."""
    numbers = np.array([int(key) for key in keys], np.uint64)
    return Hashes(numbers % np.uint64(1 << bits), numbers + np.uint64(1))


@pytest.mark.no_cover
@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["put", "remove"]), st.sets(st.integers(0, 40), max_size=12)), max_size=30),
    st.integers(0, 3),
)
def test_the_index_is_a_dict(steps: list[tuple[str, set[int]]], bits: int) -> None:
    index, expected = HashIndex(41), dict[int, int]()
    for step, numbers in steps:
        if step == "put":
            new = sorted(numbers - expected.keys())
            rows = sorted(set(range(41)) - set(expected.values()))[: len(new)]
            index.put(np.array(rows, np.int64), narrow([str(number) for number in new], bits))
            expected.update(zip(new, rows, strict=True))
        else:
            old = sorted(numbers & expected.keys())
            index.remove(np.array([expected.pop(number) for number in old], np.int64))
        found = index.find(narrow([str(number) for number in range(41)], bits))
        assert found.tolist() == [expected.get(number, -1) for number in range(41)]


def test_hashes_are_blake2b_and_the_empty_string_is_none() -> None:
    both = hashes(["", "ü"])
    assert both.is_none.tolist() == [True, False]
    digest = __import__("hashlib").blake2b("ü".encode(), digest_size=16).hexdigest()
    assert (both.high[1].tobytes() + both.low[1].tobytes()).hex() == digest


@pytest.mark.no_cover
@pytest.mark.parametrize("length", [1, 1000])
def test_the_memory_of_hashes_is_bounded(length: int) -> None:
    hashes(str(number) * length for number in range(70_000))
    assert hash_index._digest.cache_info().currsize <= 65_536
