"""The search in NumPy against the one of training, in lists of all lengths and with equal scores."""

import numpy as np
import pytest
import torch

from trainer.models import orders as in_torch
from trainer.models import pages as pages_in_torch
from trainer.models.diversity import by_place
from trainer.versions.page_search import (
    PageSearch,
    Proposal,
    SearchSizes,
    all_orders,
    candidate_orders,
    distances,
    scores_of_page,
)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 9, 30])
@pytest.mark.parametrize("has_ties", [False, True])
def test_candidate_orders_are_those_of_training(n: int, has_ties: bool) -> None:
    rng = np.random.default_rng(n)
    drawn = rng.integers(0, 4, (200, n)) if has_ties else rng.normal(0, 3, (200, n))
    scores = -np.sort(-drawn.astype(np.float32), axis=1)
    places = min(6, n)
    fixed = all_orders(min(5, places), places)
    assert np.array_equal(fixed, in_torch.all_orders(min(5, places), places).numpy())
    expected, counts = in_torch.candidate_orders(
        torch.from_numpy(scores),
        torch.ones(scores.shape, dtype=torch.bool),
        torch.from_numpy(fixed),
        beams=20,
        extensions=8,
    )
    for row in range(len(scores)):
        found = candidate_orders(scores[row], fixed, beams=20, extensions=8)
        assert np.array_equal(found, expected[row][counts[row]].numpy())


def test_scores_far_apart_give_orders_all_the_same() -> None:
    scores = np.array([900.0, 0.0, -900.0, -901.0, -5_000.0], np.float32)
    found = candidate_orders(scores, all_orders(1, 3), beams=4, extensions=5)
    assert found[0].tolist() == [0, 1, 2]
    assert [0, 1, 3] in found.tolist()


def test_distances_are_those_of_training() -> None:
    rng = np.random.default_rng(0)
    planes = pages_in_torch.hyperplanes(24, 64)
    orders, pages = (rng.normal(size=(num, 24)).astype(np.float32) for num in (140, 5))
    for is_page in (np.ones(5, np.bool_), np.array([True, False, True, False, False])):
        found = distances(orders, pages, is_page, planes.numpy())
        of_orders, of_pages, are_pages = (torch.from_numpy(each)[None] for each in (orders, pages, is_page))
        expected = pages_in_torch.distances(of_orders, of_pages, are_pages, planes)[0].numpy()
        np.testing.assert_allclose(found / 12, expected, rtol=1e-6)


def test_without_a_clicked_page_the_first_orders_are_evaluated() -> None:
    rng = np.random.default_rng(1)
    sizes = SearchSizes(places=4, permuted=3, beams=20, extensions=6, orders=12)
    search = PageSearch(sizes, rng.normal(size=(6, 16)).astype(np.float32))
    scores, vectors, pages = (rng.normal(size=size).astype(np.float32) for size in (9, (9, 6), (2, 6)))
    plain = search.propose(scores, vectors, pages, np.zeros(2, np.bool_))
    assert plain.first.tolist() == np.argsort(-scores).tolist()
    of_all = plain.first[[[*each, 3] for each in all_orders(3, 3).tolist()]]
    assert plain.pages[:6].tolist() == of_all.tolist()
    near = search.propose(scores, vectors, pages, np.ones(2, np.bool_))
    assert near.pages[0].tolist() == plain.first[:4].tolist()
    assert near.pages.shape == (12, 4)
    assert near.pages.tolist() != plain.pages.tolist()


@pytest.mark.parametrize("n", [1, 3, 30])
def test_the_best_page_stands_first_and_the_others_keep_the_first_pass(n: int) -> None:
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n).astype(np.float32)
    first = np.argsort(-scores, kind="stable")
    places = min(5, n)
    pages = np.stack([first[:places], first[:places][::-1], rng.permutation(n)[:places]])
    logits = np.zeros((3, places), np.float32)
    logits[2] = 1.0
    found = scores_of_page(scores, Proposal(first, pages), logits)
    order = np.argsort(-found)
    rest = [item for item in first if item not in pages[2]]
    assert order.tolist() == [*pages[2].tolist(), *rest]
    place = torch.from_numpy(np.argsort(order))[None]
    expected = by_place(torch.from_numpy(scores)[None], place, torch.ones((1, n), dtype=torch.bool))
    np.testing.assert_array_equal(found, expected[0].numpy())
