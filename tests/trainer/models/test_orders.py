"""Candidate orders against brute force, in lists of all lengths."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from trainer.models.orders import all_orders, beam_search, candidate_orders, first_pass, places_of


def scores(lists: int, n: int, seed: int = 0) -> Tensor:
    found = torch.randn((lists, n), generator=torch.Generator().manual_seed(seed))
    return found.sort(dim=1, descending=True).values


def real(*counts: int, n: int) -> Tensor:
    return torch.arange(n) < torch.tensor(counts)[:, None]


def likelihood(order: tuple[int, ...], logit: list[float]) -> float:
    """Return the logarithm of an order's chance by Plackett and Luce, item by item."""
    left, total = list(range(len(logit))), 0.0
    for place in order:
        chances = torch.tensor([logit[each] for each in left], dtype=torch.float64).softmax(0)
        total += float(chances[left.index(place)].log())
        left.remove(place)
    return total


def kept(found: Tensor, counts: Tensor, row: int) -> list[tuple[int, ...]]:
    return [tuple(order) for order, is_kept in zip(found[row].tolist(), counts[row].tolist(), strict=True) if is_kept]


def test_the_orders_of_a_list_of_five_are_all_of_them() -> None:
    logit, mask = scores(3, 5), real(5, 5, 5, n=5)
    found, counts = candidate_orders(logit, mask, all_orders(5, 5), beams=20, extensions=8)
    for row in range(3):
        orders = kept(found, counts, row)
        assert len(orders) == 120
        assert set(orders) == set(permutations(range(5)))
        assert orders[0] == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_likeliest_orders(seed: int) -> None:
    logit = scores(1, 6, seed)
    found = beam_search(logit, real(6, n=6), places=4, beams=400, extensions=6)[0].tolist()
    expected = sorted(permutations(range(6), 4), key=lambda order: -likelihood(order, logit[0].tolist()))
    assert [tuple(order) for order in found[:50]] == expected[:50]
    assert {tuple(order) for order in found} == set(expected)


def test_a_beam_extends_by_the_best_items_alone() -> None:
    found = beam_search(scores(2, 9), real(9, 9, n=9), places=3, beams=20, extensions=2)
    assert found.shape == (2, 8, 3)
    assert int(found.max()) == 3


def test_in_long_lists_the_beam_brings_items_from_below_the_permuted_ones() -> None:
    logit, mask = scores(1, 12) * 0.01, real(12, n=12)
    found, counts = candidate_orders(logit, mask, all_orders(5, 6), beams=20, extensions=8)
    orders = kept(found, counts, 0)
    assert len(set(orders)) == len(orders) <= 140
    assert all(len(set(order)) == 6 for order in orders)
    assert any(max(order) > 5 for order in orders)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_in_short_lists_padding_stays_behind(count: int) -> None:
    logit, mask = scores(1, 8), real(count, n=8)
    found, counts = candidate_orders(torch.where(mask, logit, 0.0), mask, all_orders(5, 6), beams=20, extensions=8)
    tail = tuple(range(count, 6))
    assert set(kept(found, counts, 0)) == {(*order, *tail) for order in permutations(range(count))}


def test_the_first_pass_sorts_and_padding_comes_last() -> None:
    logit = torch.tensor([[0.5, 9.0, 2.0, 0.5]])
    mask = torch.tensor([[True, False, True, True]])
    assert first_pass(logit, mask).tolist() == [[2, 0, 3, 1]]


def test_places_show_the_best_order_and_then_the_first_pass() -> None:
    order = torch.tensor([[3, 0, 2, 1, 4]])
    # The page begins with the items at places 2, 0 of the first pass: items 2 and 3; behind them 0, 1, 4.
    assert places_of(order, torch.tensor([[2, 0]])).tolist() == [[2, 3, 0, 1, 4]]


def test_all_orders_of_the_first_items_leave_the_others_in_place() -> None:
    found = all_orders(5, 6)
    assert found.shape == (120, 6)
    assert set(found[:, 5].tolist()) == {5}
