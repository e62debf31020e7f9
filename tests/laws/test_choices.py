"""Choices from bytes: near uniform, within their bounds, and simplest for zeros."""

from collections import Counter

from tests.laws.choices import Choices


def test_a_byte_gives_each_option_about_as_often() -> None:
    counted = Counter(Choices(bytes([value])).integer(-1, 11) for value in range(256))
    assert counted.keys() == {*range(-1, 12)}
    assert max(counted.values()) - min(counted.values()) <= 1


def test_wide_integers_reach_both_bounds_and_grow_with_their_bytes() -> None:
    found = [Choices(bytes([high, 255, 255, 255])).integer(3, 2_400_000) for high in range(256)]
    assert found == sorted(set(found))
    assert Choices(bytes(4)).integer(3, 2_400_000) == 3
    assert found[-1] == 2_400_000


def test_zeros_and_the_end_of_the_bytes_give_the_simplest_choices() -> None:
    for choices in (Choices(b""), Choices(bytes(40))):
        assert not choices.exists()
        assert not choices.flag()
        assert choices.within(5) == 0
        assert choices.sampled("abc") == "a"
        assert choices.samples("abc", 2, 4) == ["a", "a"]
        assert choices.subset("abc") == ["a"]


def test_a_subset_keeps_the_order_of_its_options() -> None:
    found = {"".join(Choices(bytes([size, *first])).subset("abc")) for size in (0, 100, 255)
             for first in ((0, 0), (100, 0), (255, 255))}  # fmt: skip
    assert found == {"a", "b", "c", "ab", "bc", "abc"}


def test_later_bytes_give_later_choices() -> None:
    choices = Choices(bytes([1, 255, 0, 255]))
    assert choices.exists()
    assert choices.flag()
    assert not choices.flag()
    assert choices.sampled("abc") == "c"
