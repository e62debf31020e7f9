"""Choice of the page of one list in NumPy, for versions that are scored without torch.

The candidate orders are those of `trainer.models.orders`, and their distances those of `trainer.models.pages`, for a
list whose candidates are all real.

Legend: n candidates, s places of the page, C candidate orders, K of them that are evaluated, P clicked pages, v width
of their vectors.

Source: Shi et al., KDD 2023, PIER, arXiv 2302.03487, sections 3.2 and 3.3; docs/training.md, "PIER".
"""

from itertools import permutations
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer.configs.base import PLACE_STEP
from trainer.configs.pier import LIKELIHOOD_DECIMALS, page_twelfths

Items = NDArray[np.int64]
Floats = NDArray[np.float32]


class SearchSizes(msgspec.Struct, frozen=True, array_like=True):
    """Sizes of the search, as `trainer.configs.pier.PierConfig` has them."""

    places: int
    permuted: int
    beams: int
    extensions: int
    orders: int


class Proposal(NamedTuple):
    """Candidates of a page.

    Attributes:
        first: [n] items in the order of the first pass.
        pages: [K,s] items of the orders to evaluate, the first pass's own first.
    """

    first: Items
    pages: Items


class PageSearch:
    """The search of the orders that an evaluator sees."""

    def __init__(self, sizes: SearchSizes, planes: Floats) -> None:
        """Prepare the orders that are candidates of every list.

        Args:
            sizes: Sizes of the search.
            planes: [v,bits] hyperplanes of the hash.
        """
        self._sizes = sizes
        self._planes = planes
        # By number of places, since lists may be shorter than the page.
        self._fixed = [all_orders(min(sizes.permuted, places), places) for places in range(1, sizes.places + 1)]

    def propose(self, scores: Floats, vectors: Floats, pages: Floats, is_page: NDArray[np.bool_]) -> Proposal:
        """Return the orders that are nearest to the client's clicked pages.

        Args:
            scores: [n] scores of the first pass.
            vectors: [n,v] vectors of the items, of which pages are means.
            pages: [P,v] clicked pages, the newest first.
            is_page: [P] which of them there are.
        """
        sizes = self._sizes
        first = np.argsort(-scores, kind="stable")
        fixed = self._fixed[min(sizes.places, len(first)) - 1]
        found = candidate_orders(scores[first], fixed, beams=sizes.beams, extensions=sizes.extensions)
        items = first[found]
        if is_page.any():
            away = distances(vectors[items].mean(axis=1), pages, is_page, self._planes)
            away[0] = -1
            items = items[np.argsort(away, kind="stable")]
        return Proposal(first, items[: sizes.orders])


def all_orders(permuted: int, places: int) -> Items:
    """Return all orders of the first `permuted` places, with the places behind them in their order.

    Shapes: (permuted!, places). The first one changes nothing.
    """
    return np.array([[*order, *range(permuted, places)] for order in permutations(range(permuted))], np.int64)


def candidate_orders(scores: Floats, fixed: Items, *, beams: int, extensions: int) -> Items:
    """Return the candidate orders of a list, each once.

    Args:
        scores: [n] scores in the order of the first pass.
        fixed: [C',s] orders that are candidates of every list, as `all_orders`.
        beams: Orders that the beam search keeps.
        extensions: Items that extend an order.

    Shapes: (C, s), in the order in which they are found.
    """
    n, places = len(scores), fixed.shape[1]
    found = np.concatenate([fixed, beam_search(scores, places=places, beams=beams, extensions=extensions)])
    # Of n ** s orders of up to 100 candidates and 6 places each has a number of its own.
    _, where = np.unique(found @ n ** np.arange(places), return_index=True)
    return found[np.sort(where)]


def beam_search(scores: Floats, *, places: int, beams: int, extensions: int) -> Items:
    """Return the orders that the first pass finds likeliest, as a Plackett-Luce model of its scores.

    Args:
        scores: [n] scores in the order of the first pass.
        places: s, places to fill, at most n.
        beams: Orders that are kept; of those that are equally likely but for rounding, the first.
        extensions: Items that extend an order.

    Shapes: (at most beams, s), likeliest first.
    """
    score = scores.astype(np.float64)
    taken = np.zeros((1, len(score)), np.bool_)
    total = np.zeros(1)
    path = np.zeros((1, 0), np.int64)
    for filled in range(places):
        # Items stand by falling score, so the best free ones are the first free ones.
        best = np.argsort(taken, axis=1, kind="stable")[:, : min(extensions, len(score) - filled)]
        top = score[best[:, :1]]
        mass = np.where(taken, 0.0, np.exp(np.minimum(score - top, 0.0))).sum(axis=1, keepdims=True)
        extended = (total[:, None] + (score[best] - top - np.log(mass))).ravel()
        chosen = np.argsort(-extended.round(LIKELIHOOD_DECIMALS), kind="stable")[:beams]
        parent, place = chosen // best.shape[1], best.ravel()[chosen]
        total = extended[chosen]
        path = np.concatenate([path[parent], place[:, None]], axis=1)
        taken = taken[parent]
        taken[np.arange(len(place)), place] = True
    return path


def distances(orders: Floats, pages: Floats, is_page: NDArray[np.bool_], planes: Floats) -> Items:
    """Return the weighted Hamming distance of each order's hash to those of the pages, in twelfths.

    Shapes: orders (C, v), pages (P, v), is_page (P,), planes (v, bits); result (C,).
    """
    differing = ((orders @ planes > 0)[:, None, :] != (pages @ planes > 0)[None, :, :]).sum(axis=2)
    found: Items = differing @ np.where(is_page, page_twelfths(len(pages)), 0)
    return found


def scores_of_page(scores: Floats, proposal: Proposal, logits: Floats) -> Floats:
    """Return scores that sort a list into the page with the most expected clicks.

    Args:
        scores: [n] scores of the first pass.
        proposal: The candidates.
        logits: [K,s] the evaluator's logits of the places of their pages.

    Shapes: (n,): each place has the score that the first pass has there, less a step for each place above it.
    """
    clicks = (1 / (1 + np.exp(-logits.astype(np.float64)))).sum(axis=1)
    page = proposal.pages[int(clicks.argmax())]
    order = np.concatenate([page, proposal.first[~np.isin(proposal.first, page)]])
    found = np.empty_like(scores)
    found[order] = scores[proposal.first] - (PLACE_STEP * np.arange(len(order))).astype(np.float32)
    return found
