"""Settings refuse values that make the join meaningless."""

import pytest

from stream.join.settings import JoinSettings


@pytest.mark.parametrize(
    "values",
    [
        {"ticks": "clock"},
        {"click_window_s": 0},
        {"lateness_s": -1},
        {"clock_tolerance_s": -1},
        {"attribution_s": 900},
        {"profile_size": 0},
    ],
)
def test_wrong_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        JoinSettings(**values)  # type: ignore[arg-type]


def test_the_tolerance_of_clocks_is_shorter_than_the_wait() -> None:
    assert JoinSettings().clock_tolerance_ms == 2_000
    assert JoinSettings(wait_s=1).clock_tolerance_ms == 999
