"""Past pages of a client, and the candidate orders that are most like them, by a hash of signs.

Source: Shi et al. 2023 (PIER, arXiv 2302.03487), section 3.3, the selection of orders by SimHash (Charikar 2002) and a
weighted Hamming distance.
"""

import torch
from torch import Tensor

_WEIGHTS = (1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 4)
"""Weights of the pages' distances, the newest page first; later pages have the last one."""


def past_pages(values: Tensor, category: Tensor, mask: Tensor, pages: int) -> tuple[Tensor, Tensor]:
    """Return the mean vector of the client's newest pages, and which of them there are.

    The history does not say which behaviours were on one page. Behaviours of one category that follow each other count
    as one.

    Args:
        values: Vectors of the behaviours, the newest first.
        category: Number of each behaviour's category.
        mask: Which behaviours are real: the first ones.
        pages: P, the most pages.

    Shapes: (B, L, v), (B, L), (B, L); result (B, P, v), (B, P).
    """
    is_new = torch.ones_like(mask)
    is_new[:, 1:] = category[:, 1:] != category[:, :-1]
    page = torch.where(mask, (is_new & mask).cumsum(dim=1) - 1, pages)
    belongs = (page[:, None, :] == torch.arange(pages, device=mask.device)[:, None]).to(values.dtype)
    size = belongs.sum(dim=2)
    return torch.matmul(belongs, values) / size.clamp(min=1)[..., None], size > 0


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
    num = pages.shape[1]
    weights = torch.tensor([_WEIGHTS[min(page, len(_WEIGHTS) - 1)] for page in range(num)], device=orders.device)
    return (differing * torch.where(is_page, weights, 0.0)[:, None, :]).sum(dim=2)
