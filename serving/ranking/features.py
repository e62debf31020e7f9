"""From a request to what the model sees and the impression logs: one builder, so both hold the same values.

Source: MODELS.md 1, TRAINING_SERVING.md 8.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.schemas import RankRequest
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas.events import MAX_ITEMS, Features, History
from stream.schemas.session import ACTION_CODES
from trainer.features import FEATURE_SCHEMA, SessionExample, context_f16, example_from_request, item_f16


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Features of one request, rows in incoming order.

    Attributes:
        items: float16 (n, f) of the first 200 candidates.
        price_minor: Price of the same candidates: the request's, else the catalogue's, else 0.
        example: The first candidates as the models take them.
    """

    items: NDArray[np.float16]
    context: NDArray[np.float16]
    price_minor: list[int]
    history: History
    example: SessionExample


def history_of(client_id: str, profiles: Profiles, event_ts: int) -> History:
    """Return the client's behaviours, newest first, with their age at `event_ts`."""
    known = [b for b in profiles.behaviours(client_id) if b.action in ACTION_CODES]
    return History(
        object_id=[b.item_id for b in known],
        action=[b.action for b in known],
        age_s=[max(event_ts - b.event_ts, 0) // 1_000 for b in known],
        category=[b.category or "" for b in known],
    )


def prices_of(request: RankRequest, catalogue: Catalogue) -> list[int]:
    """Return the price of each loggable candidate, 0 when nobody knows it."""
    prices: list[int] = []
    for candidate in request.candidates[:MAX_ITEMS]:
        price = candidate.price_minor
        if price is None:
            item = catalogue.get(candidate.item_id)
            price = 0 if item is None else item.price_minor
        prices.append(price)
    return prices


def build(
    request: RankRequest, *, query_id: str, event_ts: int, catalogue: Catalogue, profiles: Profiles, num_scored: int
) -> Served:
    """Return the features of a request, as of `event_ts`."""
    ids = [candidate.item_id for candidate in request.candidates[:MAX_ITEMS]]
    prices = prices_of(request, catalogue)
    items = item_f16([catalogue.get(item_id) for item_id in ids], prices)
    traits = request.client
    context = context_f16(
        event_ts=event_ts,
        page=request.query.page,
        total_hits=request.query.total_hits,
        age_band=traits.age_band if traits else None,
        gender=traits.gender if traits else None,
    )
    history = history_of(request.client_id, profiles, event_ts)
    example = example_from_request(
        query_id=query_id,
        item_ids=ids[:num_scored],
        items=items[:num_scored],
        context=context,
        history=history,
        category=request.query.category,
        catalogue=catalogue,
        session_id=request.session_id,
    )
    return Served(items=items, context=context, price_minor=prices, history=history, example=example)


def logged(served: Served, shown: list[int]) -> Features:
    """Return what the impression carries; `shown` gives the incoming row of each logged position."""
    return Features(
        schema=FEATURE_SCHEMA,
        item_f16=np.ascontiguousarray(served.items[shown], dtype="<f2").tobytes(),
        context_f16=served.context.astype("<f2").tobytes(),
        history=served.history,
    )
