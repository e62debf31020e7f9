"""The distance of orders to clicked pages, by direct formulas."""

import pytest
import torch

from trainer.models.pages import distances, hyperplanes


def test_the_distance_is_the_weighted_number_of_differing_signs() -> None:
    generator = torch.Generator().manual_seed(1)
    orders, pages = (torch.randn((2, size, 6), generator=generator) for size in (4, 7))
    is_page = torch.rand((2, 7), generator=generator) < 0.7
    found = distances(orders, pages, is_page, hyperplanes(6, 32))
    weights = [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 4]
    for row in range(2):
        for number in range(4):
            expected = 0.0
            for page in range(7):
                signs = zip(
                    orders[row, number] @ hyperplanes(6, 32), pages[row, page] @ hyperplanes(6, 32), strict=True
                )
                differing = sum(bool(one > 0) != bool(other > 0) for one, other in signs)
                expected += weights[page] * differing * bool(is_page[row, page])
            assert float(found[row, number]) == pytest.approx(expected)


def test_like_orders_are_nearer_than_unlike_ones() -> None:
    page = torch.randn((1, 1, 24), generator=torch.Generator().manual_seed(2))
    orders = torch.cat([page + 0.1, -page], dim=1)
    found = distances(orders, page, torch.tensor([[True]]), hyperplanes(24, 64))[0].tolist()
    assert found[0] < 16 < found[1]
