"""One breaker at a time: when it opens, what keeps it open, what closes it, and what becomes part of the past."""

import pytest

from trainer.breakers.bands import BandLimits, Count
from trainer.breakers.breakers import CLICKS, LOSS, ORDERS, Breakers

LIMITS = BandLimits(sigma=6.0, ratio=3.0, rise=0.4, loss=2.0, lists=50, windows=4)
GOOD, DEAD = Count(90, 900, 60), Count(0, 900, 60)
PRICE = "null_price"


def learned(breakers: Breakers, name: str = CLICKS, count: Count = GOOD, windows: int = 4) -> Breakers:
    for number in range(windows):
        assert not breakers.judge({name: count}, number)
    return breakers


def test_nothing_trips_before_there_is_a_past() -> None:
    breakers = learned(Breakers(LIMITS), windows=3)
    assert not breakers.judge({CLICKS: DEAD}, 3)


def test_a_dead_topic_trips_and_each_further_window_as_well_until_clicks_come_again() -> None:
    breakers = learned(Breakers(LIMITS))
    for window in range(5, 8):
        found = breakers.judge({CLICKS: DEAD}, window)
        assert found[CLICKS].since_ts == window, "each range is judged by itself"
        assert breakers.states() == {CLICKS: True}
    assert not breakers.judge({CLICKS: GOOD}, 9)
    assert breakers.states() == {CLICKS: False}


def test_an_open_breaker_keeps_windows_out_that_say_too_little() -> None:
    breakers = learned(Breakers(LIMITS))
    assert breakers.judge({CLICKS: DEAD}, 5)
    few = Count(30, 300, 20)
    assert breakers.judge({CLICKS: few}, 6)[CLICKS].lists == 20
    assert breakers.judge({CLICKS: few}, 7)[CLICKS].lists == 40
    assert breakers.judge({}, 8)[CLICKS].lists == 0, "a window without lists says nothing either"
    assert not breakers.judge({CLICKS: few}, 9), "60 lists"


def test_few_lists_are_summed_until_they_trip() -> None:
    breakers = learned(Breakers(LIMITS))
    small = Count(0, 60, 4)
    found = [bool(breakers.judge({CLICKS: small}, window)) for window in range(5, 10)]
    assert found == [False, False, False, False, True], "20 lists are judged, fewer are not"


def test_the_sums_of_a_rare_label_grow_over_windows() -> None:
    breakers = learned(Breakers(LIMITS), ORDERS, Count(20, 10_000, 600))
    dead = Count(0, 900, 60)
    found = [breakers.judge({ORDERS: dead}, window) for window in range(5, 11)]
    # .002 of 900 items: z = -2 sqrt(900 n) asin(sqrt(.002)) is below -6 from n = 5 windows on.
    assert [bool(each) for each in found] == [False, False, False, False, True, True]
    assert found[4][ORDERS].since_ts == 5
    assert found[4][ORDERS].lists == 300


def test_a_window_that_trips_teaches_the_past_of_no_measure() -> None:
    breakers = learned(Breakers(LIMITS))
    for window in range(5, 9):
        assert breakers.judge({CLICKS: DEAD, PRICE: Count(0, 900, 60)}, window)
    before = breakers.to_files()["breakers"]
    assert before[f"{PRICE}.past"].size == 0
    assert before[f"{CLICKS}.past"].size == 4
    assert not breakers.judge({CLICKS: GOOD, PRICE: Count(900, 900, 60)}, 9)


def test_a_breaker_that_is_closed_by_hand_forgets_its_past() -> None:
    breakers = learned(Breakers(LIMITS))
    breakers.close([CLICKS, ORDERS])
    assert breakers.to_files()["breakers"][f"{CLICKS}.past"].size == 4, "it was closed"
    assert breakers.judge({CLICKS: DEAD}, 5)
    breakers.close([CLICKS, ORDERS])
    assert breakers.states() == {CLICKS: False}
    learned(breakers, count=DEAD, windows=6)


def test_a_window_that_is_left_out_anyhow_teaches_nothing() -> None:
    breakers = learned(Breakers(LIMITS))
    assert not breakers.judge({CLICKS: GOOD}, 5, is_bad=True)
    assert breakers.to_files()["breakers"][f"{CLICKS}.past"].size == 4


def test_a_feature_that_is_gone_trips_and_one_that_comes_does_not() -> None:
    breakers = learned(Breakers(LIMITS), PRICE, Count(90, 900, 60))
    assert not breakers.judge({PRICE: Count(0, 900, 60)}, 5)
    assert breakers.judge({PRICE: Count(900, 900, 60)}, 6)[PRICE].value == 1


def test_a_loss_trips_upwards_only() -> None:
    breakers = learned(Breakers(LIMITS), LOSS, Count(120, 60, 60))
    assert not breakers.judge({LOSS: Count(12, 60, 60)}, 5)
    assert breakers.judge({LOSS: Count(300, 60, 60)}, 6)[LOSS].value == 5


@pytest.mark.parametrize("windows", [4, 300])
def test_a_copy_from_its_files_goes_on_alike(windows: int) -> None:
    breakers = learned(Breakers(LIMITS), windows=windows)
    breakers.judge({CLICKS: Count(0, 30, 2)}, 1_700_000_000_000)
    copy = Breakers(LIMITS)
    copy.restore(breakers.to_files())
    for each in (breakers, copy):
        found = each.judge({CLICKS: DEAD}, 1_700_000_060_000)
        assert found[CLICKS].since_ts == 1_700_000_000_000
    again = Breakers(LIMITS)
    again.restore(copy.to_files())
    assert again.states() == {CLICKS: True}
    assert again.to_files()["breakers"][f"{CLICKS}.past"].size == min(windows, 256)


def test_a_checkpoint_of_an_earlier_release_has_no_past() -> None:
    breakers = learned(Breakers(LIMITS))
    breakers.restore({})
    assert breakers.states() == {}
