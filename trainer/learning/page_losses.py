"""Losses of whole pages: orders by grades of people, the order of each item type by its teacher, and by both together.

Each is a value per list and says which lists it counts; no loss branches on values, and padding changes nothing, even
NaN in it. An item without a key is no part of a loss.

Source: SMAR, arXiv 2510.16803, with the losses of its public code; Xia et al. 2008, Listwise approach to learning to
rank, for ListMLE; docs/training.md, "SMAR".
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.configs.smar import SmarConfig
from trainer.models.batch import PageTargets
from trainer.models.blocks import MASKED, wide


class PerList(NamedTuple):
    """A loss [B] in nats or score units, and which lists [B] it counts: those with two items to compare."""

    loss: Tensor
    counts: Tensor


def list_mle(logit_BL: Tensor, key_BL: Tensor, group_BL: Tensor, mask_BL: Tensor) -> PerList:
    """Return ListMLE of the order by descending keys inside of each group, over the group's length, summed by group.

    Among n items in order it is 1/n sum_i [log sum_{k >= i} exp z_k - z_i]. Items of equal keys all stand in each
    other's sum, so that no order among them is taught (the tie rule of Breslow 1974).

    Shapes: logits, keys, groups and mask (B, L); result (B,) each. Keys are NaN where there is none.
    """
    known, key, same = _known(key_BL, group_BL, mask_BL)
    z = torch.where(known, wide(logit_BL), 0.0)
    behind = same & (key[:, None, :] <= key[:, :, None])
    terms = torch.logsumexp(torch.where(behind, z[:, None, :], MASKED), dim=2) - z
    size = same.sum(dim=2)
    loss = torch.where(known, terms / torch.clamp_min(size, 1), 0.0).sum(dim=1)
    return PerList(loss, (size > 1).any(dim=1))


def pairwise(logit_BL: Tensor, key_BL: Tensor, group_BL: Tensor, mask_BL: Tensor, margin: float) -> PerList:
    """Return the mean of max(0, margin - (z_i - z_j)) over pairs of a group whose key of i is higher than that of j.

    Shapes: as `list_mle`.
    """
    known, key, same = _known(key_BL, group_BL, mask_BL)
    z = torch.where(known, wide(logit_BL), 0.0)
    return _hinge(z, same & (key[:, :, None] > key[:, None, :]), margin)


def anchored(logit_BL: Tensor, mask_BL: Tensor, page: PageTargets, margin: float) -> PerList:
    """Return the mean of max(0, margin - (z_i - z_j)) over pairs of two types whose order grades and teachers imply.

    Grades of a type are taken as monotone in its teacher's scores: a grade is a lower bound for the items of its type
    with a higher score, and an upper bound for those with a lower one. Item i stands above j if its lower bound is
    above the upper bound of j. An item whose bounds contradict each other is in no pair.

    Shapes: logits and mask (B, L).
    """
    z = torch.where(mask_BL, wide(logit_BL), 0.0)
    same = (page.type[:, :, None] == page.type[:, None, :]) & mask_BL[:, :, None] & mask_BL[:, None, :]
    # [B,L,L] of the item that is bounded, and of the graded one; a comparison with NaN is false.
    itself = torch.eye(mask_BL.shape[1], dtype=torch.bool, device=mask_BL.device)
    by_grade = same & ~torch.isnan(page.grade)[:, None, :]
    above = by_grade & ((page.teacher[:, :, None] > page.teacher[:, None, :]) | itself)
    below = by_grade & ((page.teacher[:, :, None] < page.teacher[:, None, :]) | itself)
    low = torch.where(above, page.grade[:, None, :], -torch.inf).amax(dim=2)
    high = torch.where(below, page.grade[:, None, :], torch.inf).amin(dim=2)
    sound = mask_BL & (low <= high)
    pairs = ~same & sound[:, :, None] & sound[:, None, :] & (low[:, :, None] > high[:, None, :])
    return _hinge(z, pairs, margin)


def squashed(logit_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return tanh(z - max z), with the maximum over the real items of each list, which gets 0.

    Shapes: (B, L) twice; result (B, L).
    """
    z = torch.where(mask_BL, wide(logit_BL), MASKED)
    return torch.where(mask_BL, torch.tanh(z - z.max(dim=1, keepdim=True).values), 0.0)


def page_losses(logit_BL: Tensor, mask_BL: Tensor, page: PageTargets, config: SmarConfig) -> dict[str, PerList]:
    """Return the loss of graded pages under `graded`, that of the teachers' orders under `consistent`, and with a
    weight for it that of both together under `anchored`.
    """
    z = squashed(logit_BL, mask_BL) if config.tanh_squash else logit_BL
    if config.consistency_form == "listwise":
        consistent = list_mle(z, page.teacher, page.type, mask_BL)
    else:
        consistent = pairwise(z, page.teacher, page.type, mask_BL, config.margin)
    whole = torch.zeros_like(page.type)
    found = {"graded": list_mle(z, page.grade, whole, mask_BL), "consistent": consistent}
    if config.anchor_weight:
        found["anchored"] = anchored(z, mask_BL, page, config.margin)
    return found


def _hinge(z_BL: Tensor, pairs_BLL: Tensor, margin: float) -> PerList:
    """Return the mean of max(0, margin - (z_i - z_j)) over the pairs (i, j) of each list."""
    terms = torch.where(pairs_BLL, torch.clamp_min(margin - (z_BL[:, :, None] - z_BL[:, None, :]), 0.0), 0.0)
    num = pairs_BLL.sum(dim=(1, 2))
    return PerList(terms.sum(dim=(1, 2)) / torch.clamp_min(num, 1), num > 0)


def _known(key_BL: Tensor, group_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the items that have a key [B,L], the keys, and the pairs of such items of one group [B,L,L]."""
    known = mask_BL & ~torch.isnan(key_BL)
    key = torch.where(known, key_BL, 0.0)
    same = (group_BL[:, :, None] == group_BL[:, None, :]) & known[:, :, None] & known[:, None, :]
    return known, key, same
