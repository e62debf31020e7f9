import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.axis import axis

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(NUMBERS, NUMBERS, st.integers(3, 9))
def test_an_axis_holds_both_ends_at_few_round_ticks(one: float, other: float, most: int) -> None:
    low, high = min(one, other), max(one, other)
    found = axis(low, high, most=most)
    margin = 1e-6 * (found.high - found.low)
    assert found.low <= low + margin
    assert high - margin <= found.high
    assert 2 <= len(found.ticks) <= most
    steps = [after - before for before, after in zip(found.ticks, found.ticks[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    digits = f"{steps[0]:.2e}"
    assert digits[0] in "125"
    assert digits[1:4] in {".00", ".01", ".99"}


def test_places_are_percent_and_end_at_the_axis() -> None:
    found = axis(-0.5, 0.5)
    assert [found.place(number) for number in (-2.0, -0.5, 0.0, 0.25, 0.5, 9.0)] == [0.0, 0.0, 50.0, 75.0, 100.0, 100.0]
    assert [found.holds(number) for number in (-0.51, -0.5, 0.5, 0.51)] == [False, True, True, False]
