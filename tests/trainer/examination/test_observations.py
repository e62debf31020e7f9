import numpy as np
import pytest

from stream.schemas.session import Session
from tests.harness.sessions import click, make_session
from trainer.examination.observations import Method, observe, order_before_swaps


def session(
    propensity: list[float], *, clicked: int | None = None, rank_in: list[int] | None = None, visit: str | None = "v"
) -> Session:
    n = len(propensity)
    found = make_session("q", "client", n=n, events=[] if clicked is None else [click("e", clicked)])
    found.session_id = visit
    found.propensity = np.array(propensity, "<f4").tobytes()
    found.rank_in = np.array(rank_in or range(1, n + 1), "<u2").tobytes()
    return found


def test_shuffled_lists_are_compared_by_incoming_position() -> None:
    first = session([1 / 3] * 3, clicked=1, rank_in=[3, 1, 2])
    second = session([1 / 3] * 3, rank_in=[1, 3, 2], visit=None)
    found = observe([first, second], "shuffle")
    assert found.position.tolist() == [1, 2, 3, 1, 2, 3]
    same = found.stratum[:, None] == found.stratum[None, :]
    assert same[0].tolist() == [True, False, False, False, True, False]
    assert found.is_clicked.tolist() == [False, True, False, False, False, False]
    assert found.unit.tolist() == [0, 0, 0, 1, 1, 1]
    assert (found.num_units, found.num_clicks, found.num_lists) == (2, 1, 2)


def test_swapped_lists_are_compared_by_the_position_before() -> None:
    plain, swapped = session([0.96] * 4), session([0.02, 0.96, 0.96, 0.02])
    found = observe([plain, swapped], "swaps")
    before = found.stratum.reshape(2, 4)
    assert before[1].tolist() == before[0][[3, 1, 2, 0]].tolist()


def test_lists_of_another_length_are_strata_of_their_own() -> None:
    found = observe([session([0.9] * 2), session([0.9] * 3)], "swaps")
    assert len(np.unique(found.stratum)) == 5


def test_repeated_items_of_a_query_are_one_stratum() -> None:
    first, second, other = session([1.0] * 2), session([1.0] * 2), session([1.0] * 2)
    second.item_id = first.item_id[::-1]
    other.query_hash = "another"
    found = observe([first, second, other], "em")
    assert found.stratum.tolist() == [0, 1, 1, 0, 2, 3]


def test_positions_on_the_page_come_from_the_log_where_it_names_them() -> None:
    found = session([1 / 3] * 3)
    found.position = np.array([2, 5, 9], "<u4").tobytes()
    assert observe([found], "shuffle").position.tolist() == [2, 5, 9]


@pytest.mark.parametrize(
    ("propensity", "method", "reason"),
    [
        ([], "swaps", "without propensities"),
        ([1.0, 1.0, 1.0], "swaps", "without a random position"),
        ([1.0, 1.0, 1.0], "shuffle", "without a random position"),
        ([1 / 3] * 3, "swaps", "randomised in another way"),
        ([0.9] * 3, "shuffle", "randomised in another way"),
        ([0.1, 0.9, 0.1, 0.1], "swaps", "with swaps that cannot be undone"),
        ([0.0, 0.9, 1.0], "swaps", "propensities beyond (0, 1]"),
    ],
)
def test_lists_that_a_method_cannot_use_are_counted(propensity: list[float], method: Method, reason: str) -> None:
    one = session(propensity or [1.0] * 3)
    if not propensity:
        one.propensity = b""
    found = observe([one], method)
    assert found.left_out == {reason: 1}
    assert found.num_lists == found.num_units == found.num_clicks == 0


@pytest.mark.parametrize(
    ("propensity", "before"),
    [
        ([1.0, 0.9, 0.9], [0, 1, 2]),
        ([0.1, 0.9, 0.1], [2, 1, 0]),
        ([0.05, 0.05, 0.05, 0.05, 0.95, 1.0], [1, 0, 3, 2, 4, 5]),
    ],
)
def test_swaps_are_undone(propensity: list[float], before: list[int]) -> None:
    found = order_before_swaps(np.array(propensity))
    assert found is not None
    assert found.tolist() == before
