"""Candidate orders of the top of a list, by a first pass: all orders of the first items, and a beam search.

An order is a row of places in the first pass, from 0, for the first s places of the page. Items of a list stand in the
order of the first pass, so place 0 is its best item and padding comes last.

Source: Shi et al. 2023 (PIER, arXiv 2302.03487), section 3.2, for lists of five; for longer lists docs/training.md,
"PIER".
"""

from itertools import permutations

import torch
from torch import Tensor

from trainer.configs.pier import LIKELIHOOD_DECIMALS

_PADDING = -1e9
"""Score of padding: finite, and lower for later places, so that it fills a short list in order."""


def first_pass(logit: Tensor, mask: Tensor) -> Tensor:
    """Return the items of each list by falling score, padding last; of equal scores the first row wins.

    Shapes: (B, n); result (B, n), int64.
    """
    return torch.where(mask, logit, -torch.inf).argsort(dim=1, descending=True, stable=True)


def all_orders(permuted: int, places: int) -> Tensor:
    """Return all orders of the first `permuted` places, with the places behind them in their order.

    Shapes: (permuted!, places), int64. The first one changes nothing.

    >>> all_orders(2, 3).tolist()
    [[0, 1, 2], [1, 0, 2]]
    """
    orders = [[*order, *range(permuted, places)] for order in permutations(range(permuted))]
    return torch.tensor(orders, device="cpu")


def beam_search(logit: Tensor, mask: Tensor, *, places: int, beams: int, extensions: int) -> Tensor:
    """Return the orders that the first pass finds likeliest, as a Plackett-Luce model of its scores.

    Each order is extended by the `extensions` best items that it lacks, and the `beams` likeliest orders go on.

    Args:
        logit: Scores in the order of the first pass.
        mask: Which of them are real: the first ones.
        places: s, places to fill, at most n.
        beams: Orders that are kept; of equally likely ones, the first.
        extensions: Items that extend an order.

    Shapes: (B, n); result (B, at most beams, places), int64, likeliest first.
    """
    lists, n = logit.shape
    every = torch.arange(n, device=logit.device)
    score = torch.where(mask, logit.double(), _PADDING - every)
    taken = torch.zeros((lists, 1, n), dtype=torch.bool, device=logit.device)
    total = torch.zeros((lists, 1), dtype=torch.float64, device=logit.device)
    path = torch.zeros((lists, 1, 0), dtype=torch.int64, device=logit.device)
    for filled in range(places):
        free = torch.where(taken, -torch.inf, score[:, None, :])
        # Items stand by falling score, so the best free ones are the first free ones.
        best = taken.to(torch.int8).argsort(dim=2, stable=True)[..., : min(extensions, n - filled)]
        chance = free.gather(2, best) - torch.logsumexp(free, dim=2, keepdim=True)
        # Padding takes its own place and no other, at no cost.
        is_real = best < mask.sum(dim=1)[:, None, None]
        chance = torch.where(is_real, chance, torch.where(best == filled, 0.0, -torch.inf))
        extended = (total[..., None] + chance).flatten(1)
        # Of orders that are equally likely but for rounding the first ones stay, in every runtime.
        chosen = extended.round(decimals=LIKELIHOOD_DECIMALS).argsort(dim=1, descending=True, stable=True)[:, :beams]
        total = extended.gather(1, chosen)
        parent = chosen // best.shape[2]
        place = best.flatten(1).gather(1, chosen)
        path = torch.cat([path.gather(1, parent[..., None].expand(-1, -1, filled)), place[..., None]], dim=2)
        taken = taken.gather(1, parent[..., None].expand(-1, -1, n)) | (every == place[..., None])
    return path


def candidate_orders(
    logit: Tensor, mask: Tensor, fixed: Tensor, *, beams: int, extensions: int
) -> tuple[Tensor, Tensor]:
    """Return candidate orders, the first pass's own first, and which of them count: the others repeat an earlier one.

    Args:
        logit: Scores in the order of the first pass.
        mask: Which of them are real: the first ones.
        fixed: Orders that are candidates of every list, as `all_orders`, the first pass's own first.
        beams: As in `beam_search`.
        extensions: As in `beam_search`.

    Shapes: (B, n), fixed (P, s) with s at most n; result (B, C, s), int64, and (B, C).
    """
    lists, n = logit.shape
    places = fixed.shape[1]
    of_all = fixed.to(logit.device).expand(lists, -1, -1)
    found = torch.cat([of_all, beam_search(logit, mask, places=places, beams=beams, extensions=extensions)], dim=1)
    # In a short list padding stays behind the real items.
    count = mask.sum(dim=1)[:, None, None]
    is_whole = ((found < count) | (found == torch.arange(places, device=logit.device))).all(dim=2)
    code = (found * n ** torch.arange(places, device=logit.device)).sum(dim=2)
    repeats = (code[:, :, None] == code[:, None, :]).tril(-1).any(dim=2)
    return found, is_whole & ~repeats


def places_of(order: Tensor, best: Tensor) -> Tensor:
    """Return the place of each item on the page: the best order's items, then the others as in the first pass.

    Args:
        order: Items of each list in the order of the first pass.
        best: Places in the first pass of the items that stand first.

    Shapes: order (B, n), best (B, s); result (B, n), int64, by item.
    """
    lists, n = order.shape
    num = best.shape[1]
    # The item at place k gets k; the others keep their order behind all of them.
    rank = num + torch.arange(n, device=order.device).expand(lists, -1)
    rank = rank.scatter(1, best, torch.arange(num, device=order.device).expand(lists, -1))
    place_in_page = rank.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return torch.zeros_like(order).scatter(1, order, place_in_page)
