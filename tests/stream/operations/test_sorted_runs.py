"""The external sort: order, stability and several runs."""

from hypothesis import given
from hypothesis import strategies as st

from stream.operations.sorted_runs import in_order

PAIRS = st.lists(st.tuples(st.integers(-(2**62), 2**62) | st.integers(0, 3), st.binary(max_size=20)), max_size=200)


def test_many_runs_are_merged_into_few_files() -> None:
    pairs = [(number * 7_919 % 1_000, b"%d" % number) for number in range(1_000)]
    assert list(in_order(pairs, 0)) == sorted(pairs, key=lambda pair: pair[0])


@given(PAIRS, st.sampled_from([0, 300, 1 << 20]))
def test_pairs_come_in_the_order_of_their_keys_and_equal_ones_in_their_own(
    pairs: list[tuple[int, bytes]], memory_bytes: int
) -> None:
    assert list(in_order(pairs, memory_bytes)) == sorted(pairs, key=lambda pair: pair[0])
