"""Distances of candidate orders to the pages that a client clicked, by a hash of signs.

Source: Shi et al. 2023 (PIER, arXiv 2302.03487), section 3.3, the selection of orders by SimHash (Charikar 2002) and a
weighted Hamming distance.
"""

import torch
from torch import Tensor

from trainer.configs.pier import page_twelfths


def hyperplanes(width: int, bits: int) -> Tensor:
    """Return the normal vectors of random hyperplanes, the same ones in every process.

    Shapes: (width, bits).
    """
    return torch.randn((width, bits), generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def distances(orders: Tensor, pages: Tensor, is_page: Tensor, planes: Tensor) -> Tensor:
    """Return the weighted Hamming distance of each order's hash to those of the pages; 0 without a page.

    Shapes: orders (B, C, v), pages (B, P, v), is_page (B, P), planes (v, bits) as `hyperplanes`; result (B, C).
    """
    normals = planes.to(orders.device, orders.dtype)
    of_orders, of_pages = torch.matmul(orders, normals) > 0, torch.matmul(pages, normals) > 0
    differing = (of_orders[:, :, None, :] != of_pages[:, None, :, :]).sum(dim=3)
    weights = torch.tensor(page_twelfths(pages.shape[1]), device=orders.device)
    return (differing * torch.where(is_page, weights, 0)[:, None, :]).sum(dim=2) / 12
