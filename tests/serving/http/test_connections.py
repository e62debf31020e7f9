from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.connections import OWN_FILES, ConnectionLimits, Connections, Phase, limit_of

SECONDS = {Phase.HEADERS: 5.0, Phase.BODY: 5.0, Phase.UNREAD: 10.0, Phase.IDLE: 30.0}


def table(num: int = 3, seconds: Mapping[Phase, float] = SECONDS) -> Connections[str]:
    return Connections(ConnectionLimits(num=num, seconds=dict(seconds)))


def test_a_phase_ends_at_its_deadline_and_not_before() -> None:
    found = table()
    found.opened("a", 0.0)
    assert found.expired(5.0) == []
    assert found.expired(5.1) == [("a", Phase.HEADERS)]


def test_a_connection_whose_last_bytes_are_not_read_expires_again() -> None:
    found = table()
    found.opened("a", 0.0)
    assert found.expired(6.0) == [("a", Phase.HEADERS)]
    assert (len(found), found.expired(16.0)) == (1, [])
    assert found.expired(16.1) == [("a", Phase.UNREAD)]


def test_more_bytes_of_the_same_phase_extend_no_deadline() -> None:
    found = table()
    found.opened("a", 0.0)
    for now_s in (1.0, 2.0, 3.0, 4.0):
        found.entered("a", Phase.HEADERS, now_s)
    assert found.expired(5.1) == [("a", Phase.HEADERS)]
    found.opened("b", 6.0)
    found.entered("b", Phase.BODY, 7.0)
    found.entered("b", Phase.BODY, 11.0)
    assert found.expired(12.1) == [("b", Phase.BODY)]


def test_an_answer_under_way_has_no_deadline() -> None:
    found = table()
    found.opened("a", 0.0)
    found.entered("a", Phase.ANSWER, 1.0)
    assert found.expired(1e9) == []


def test_the_next_request_has_deadlines_of_its_own() -> None:
    found = table()
    found.opened("a", 0.0)
    for phase, now_s in ((Phase.BODY, 1.0), (Phase.ANSWER, 2.0), (Phase.IDLE, 3.0), (Phase.HEADERS, 32.0)):
        found.entered("a", phase, now_s)
        assert found.expired(now_s) == []
    assert found.expired(37.1) == [("a", Phase.HEADERS)]


def test_the_oldest_without_a_request_makes_room() -> None:
    found = table(num=3)
    assert [found.opened(key, now_s) for now_s, key in enumerate("abc")] == [None] * 3
    found.entered("a", Phase.ANSWER, 3.0)
    assert found.opened("d", 4.0) == "b"
    assert (len(found), found._phases.get("b")) == (3, None)


@pytest.mark.parametrize(
    ("phases", "victim"),
    [
        ({"a": Phase.IDLE, "b": Phase.UNREAD, "c": Phase.BODY, "d": Phase.HEADERS}, "d"),
        ({"a": Phase.IDLE, "b": Phase.UNREAD, "c": Phase.BODY, "d": Phase.ANSWER}, "c"),
        ({"a": Phase.IDLE, "b": Phase.UNREAD, "c": Phase.ANSWER, "d": Phase.ANSWER}, "b"),
        ({"a": Phase.ANSWER, "b": Phase.IDLE, "c": Phase.ANSWER, "d": Phase.IDLE}, "b"),
    ],
)
def test_who_has_least_to_lose_makes_room(phases: dict[str, Phase], victim: str) -> None:
    found = table(num=4)
    for now_s, (key, phase) in enumerate(phases.items()):
        found.opened(key, float(now_s))
        found.entered(key, phase, float(now_s))
    assert found.opened("new", 10.0) == victim
    assert found._phases.get("new") is Phase.HEADERS


def test_a_new_connection_is_refused_while_every_other_one_is_being_answered() -> None:
    found = table(num=2)
    for key in "ab":
        found.opened(key, 0.0)
        found.entered(key, Phase.ANSWER, 0.0)
    assert found.opened("c", 1.0) == "c"
    assert (len(found), found._phases.get("c")) == (2, None)


def test_a_closed_connection_is_moved_nowhere() -> None:
    found = table()
    found.entered("a", Phase.BODY, 0.0)
    found.closed("a")
    assert (len(found), found.expired(1e9)) == (0, [])


@pytest.mark.parametrize(("descriptors", "expected"), [(1_024, 1_024 - OWN_FILES), (512, 256), (65_536, 4_000)])
def test_the_limit_leaves_descriptors_for_everything_else(descriptors: int, expected: int) -> None:
    assert limit_of(4_000, descriptors) == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "close", "expire", *Phase]), st.integers(0, 9), st.floats(0, 4)),
        max_size=60,
    )
)
def test_at_any_time_no_more_than_the_limit_and_nothing_older_than_its_deadline(
    steps: list[tuple[str | Phase, int, float]],
) -> None:
    found, now_s = Connections[int](ConnectionLimits(num=4, seconds=dict(SECONDS))), 0.0
    since: dict[int, tuple[Phase, float]] = {}
    for step, key, seconds in steps:
        now_s += seconds
        if step == "open" and key not in since:
            victim = found.opened(key, now_s)
            since[key] = (Phase.HEADERS, now_s)
            since.pop(-1 if victim is None else victim, None)
        elif step == "close":
            found.closed(key)
            since.pop(key, None)
        elif step == "expire":
            due = {k: p for k, (p, s) in since.items() if p in SECONDS and now_s - s > SECONDS[p]}
            assert dict(found.expired(now_s)) == due
            since |= dict.fromkeys(due, (Phase.UNREAD, now_s))
        elif isinstance(step, Phase) and key in since and since[key][0] is not step:
            found.entered(key, step, now_s)
            since[key] = (step, now_s)
        assert {k: found._phases.get(k) for k in since} == {k: p for k, (p, _) in since.items()}
        assert len(found) == len(since) <= 4
