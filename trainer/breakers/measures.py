"""Measures of a window of sessions: rates of clicks and orders, shares of absent features, and the loss of a sample.

Only sums leave this module; nothing is learned by measuring.

Source: docs/training.md, "Breakers".
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import COLUMNS, Session
from trainer.breakers.bands import Count
from trainer.breakers.breakers import CLICKS, LOSS, NULLS, ORDERS
from trainer.features import CatalogueLike, ExampleBuilder, stream_labels
from trainer.features.schema import CONTEXT_COLUMNS, ITEM_COLUMNS
from trainer.features.served_list import TOKENS, from_sessions
from trainer.learning import list_measures
from trainer.learning.former import as_floats, score
from trainer.learning.learner import Learner

_FEATURE_LISTS: Final = 1_000
_LOSS_LISTS: Final = 32
_OF_ITEMS: Final = ("price", "sales", "rating", "promotion", "known", "has_image", "has_text")
_UNKNOWN: Final = {"age": "age_unknown", "gender": "gender_unknown"}
_HAS_HITS: Final = CONTEXT_COLUMNS.index("has_total_hits")


def measure(learner: Learner, sessions: Sequence[Session], catalogue: CatalogueLike) -> dict[str, Count]:
    """Return the sums of a window by measure; nothing if it has no first revision.

    Args:
        learner: The present weights, for the loss.
        sessions: Sessions and corrections in merged order.
        catalogue: Items as of now.
    """
    fresh = [session for session in sessions if session.revision == 0]
    if not fresh:
        return {}
    return (
        labels(sessions, fresh) | features(_spread(fresh, _FEATURE_LISTS), catalogue) | _loss(learner, fresh, catalogue)
    )


def labels(sessions: Sequence[Session], fresh: Sequence[Session]) -> dict[str, Count]:
    """Return clicked items and newly bought items over the items shown; corrections bring bought items, too."""
    items = float(sum(session.n for session in fresh))
    bought = float(sum(np.count_nonzero(stream_labels(session).conv) for session in sessions))
    clicked = float(np.count_nonzero(_any_label(fresh)))
    return {CLICKS: Count(clicked, items, len(fresh)), ORDERS: Count(bought, items, len(fresh))}


def _any_label(fresh: Sequence[Session]) -> NDArray[np.bool_]:
    columns = [
        np.frombuffer(b"".join(getattr(session, name) for session in fresh), COLUMNS[name].dtype) > 0
        for name in ("clicks", "carts", "orders")
    ]
    found: NDArray[np.bool_] = columns[0] | columns[1] | columns[2]
    return found


def features(fresh: Sequence[Session], catalogue: CatalogueLike) -> dict[str, Count]:
    """Return for each feature the items, or the lists, that lack it: their value is the default, or no number.

    A list that cannot be read lacks the feature `readable`, and counts in no other.
    """
    lists, refused = from_sessions(fresh, [stream_labels(session) for session in fresh], catalogue)
    num_lists, num_read = len(fresh), len(fresh) - len(refused)
    found = {f"{NULLS}readable": Count(len(refused), num_lists, num_lists)}
    if not num_read:
        return found
    for name in _OF_ITEMS:
        column = lists.items[:, ITEM_COLUMNS.index(name)]
        found[NULLS + name] = Count(int(np.count_nonzero(column == 0)), len(column), num_read)
    of_lists = {name: lists.context[:, CONTEXT_COLUMNS.index(flag)] > 0 for name, flag in _UNKNOWN.items()}
    of_lists["total_hits"] = lists.context[:, _HAS_HITS] == 0
    of_lists["tokens"] = lists.context[:, TOKENS] == 0
    of_lists["query_vector"] = np.array([not vector.size for vector in lists.query_vector])
    of_lists["history"] = np.diff(lists.hist.cuts) == 0
    return found | {
        NULLS + name: Count(int(np.count_nonzero(is_absent)), num_read, num_read)
        for name, is_absent in of_lists.items()
    }


def _loss(learner: Learner, fresh: Sequence[Session], catalogue: CatalogueLike) -> dict[str, Count]:
    """Return the log loss of some lists by the present weights, which have not learned them."""
    sample = _spread([session for session in fresh if _any_label([session]).any()], _LOSS_LISTS)
    examples, refused = ExampleBuilder(catalogue).from_sessions(sample) if sample else (None, ())
    if examples is None or len(sample) == len(refused):
        return {}
    batch, outputs = score(
        learner.model, learner.config, learner.params, learner.id_maps, examples=examples, device=learner.device
    )
    own = as_floats(outputs.logit)
    if not np.isfinite(own[batch.cand_mask]).all():
        # The learner refuses such batches and halts.
        return {}
    losses = list_measures.losses(own, batch, None, learns_clicks=True)
    losses = losses[~np.isnan(losses)]
    return {LOSS: Count(float(losses.sum()), losses.size, losses.size)} if losses.size else {}


def _spread(sessions: Sequence[Session], most: int) -> list[Session]:
    """Return at most so many sessions, evenly over the window."""
    if len(sessions) <= most:
        return list(sessions)
    return [sessions[place] for place in np.linspace(0, len(sessions) - 1, most).round().astype(int)]
