from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serving.ranking.waiting import WaitingLists


@dataclass(frozen=True)
class One:
    due_s: float
    is_tried: bool = False


def queue(*arrivals_s: float, most: int = 100) -> WaitingLists[One]:
    made = WaitingLists[One](most)
    for arrival_s in arrivals_s:
        made.put(One(arrival_s + 20.0))
    return made


def test_a_queue_that_can_be_served_in_time_is_served_oldest_first() -> None:
    found = queue(0.0, 1.0, 2.0)
    assert [found.take(3.0, 4.0)[0] for _ in range(3)] == [One(20.0), One(21.0), One(22.0)]
    assert found.take(3.0, 4.0) == (None, [])


def test_a_queue_that_is_too_long_is_served_newest_first() -> None:
    found = queue(0.0, 1.0, 2.0)
    # The third would be ready at 22 if served last, and at 23 a second later.
    assert found.take(10.0, 4.0) == (One(20.0), [])
    found = queue(0.0, 1.0, 2.0)
    assert found.take(11.0, 4.0) == (One(22.0), [])
    assert found.take(15.0, 4.0) == (One(21.0), [])


def test_items_that_cannot_be_served_in_time_are_taken_out() -> None:
    found = queue(0.0, 1.0, 14.0)
    assert found.take(17.5, 4.0) == (One(34.0), [One(20.0), One(21.0)])


def test_an_item_with_nothing_ahead_is_tried_however_long_it_takes() -> None:
    found = WaitingLists[One](1)
    found.put(One(20.0, is_tried=True))
    assert found.take(19.0, 1_000.0) == (One(20.0, is_tried=True), [])
    found.put(One(20.0, is_tried=True))
    assert found.take(20.5, 0.0) == (None, [One(20.0, is_tried=True)])


def test_a_full_queue_takes_no_more() -> None:
    found = queue(0.0, 1.0, most=2)
    assert not found.put(One(22.0))
    assert len(found) == 2


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 3)), max_size=80),
    st.floats(0, 30),
)
def test_every_item_is_served_in_time_or_given_up_late_and_none_twice(
    steps: list[float | None], needed_s: float
) -> None:
    found, now_s, put, taken = WaitingLists[Numbered](100), 0.0, [], []
    for number, step in enumerate(steps):
        if step is not None:
            now_s += step
            put.append(Numbered(now_s + 20.0, number=number))
            assert found.put(put[-1])
            continue
        now_s += 1.0
        item, expired = found.take(now_s, needed_s)
        assert all(now_s + needed_s > one.due_s for one in expired)
        assert item is None or now_s + needed_s <= item.due_s
        rest = [one for one in put if one not in taken and one not in expired]
        assert item is None or item in {rest[0], rest[-1]}
        taken += [*expired, *([] if item is None else [item])]
    numbers = [one.number for one in taken]
    assert len(set(numbers)) == len(numbers)
    assert len(put) == len(taken) + len(found)


@dataclass(frozen=True)
class Numbered(One):
    number: int = 0
