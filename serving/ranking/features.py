"""Features of a rank request: one builder for the model and for the impression, so that both hold the same values.

Source: docs/serving.md, docs/training.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.schemas import RankRequest
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import Profiles
from stream.schemas.events import MAX_ITEMS, PRODUCT, Features, History
from trainer.features import (
    FEATURE_SCHEMA,
    ExampleBuilder,
    Examples,
    context_f16,
    query_tokens,
    request_list,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFeatures:
    """Features of one request, with rows in incoming order.

    Attributes:
        items: float16 (n, f) of the first 200 candidates.
        context: float16 (c) of the request.
        history: The client's behaviours, newest first.
        example: The first candidates in the form that models take, one list.
    """

    items: NDArray[np.float16]
    context: NDArray[np.float16]
    history: History
    example: Examples


class FeatureBuilder:
    """Builder of request features from the replicas in memory."""

    def __init__(self, catalogue: Catalogue, profiles: Profiles, *, num_scored: int, query_hash_key: bytes) -> None:
        """Prepare a builder.

        Args:
            catalogue: Records of the items.
            profiles: Histories of the clients.
            num_scored: Number of candidates that the model sees.
            query_hash_key: Key of the hash that replaces the words of a query.
        """
        self._catalogue = catalogue
        self._examples = ExampleBuilder(catalogue)
        self._profiles = profiles
        self._num_scored = num_scored
        self._query_hash_key = query_hash_key

    def prices(self, request: RankRequest) -> list[int]:
        """Return the price of each of the first 200 candidates: the request's, else the catalogue's, else 0."""
        prices: list[int] = []
        for candidate in request.candidates[:MAX_ITEMS]:
            price = candidate.price_minor
            if price is None:
                item = self._catalogue.get(candidate.item_id)
                price = 0 if item is None else item.price_minor
            prices.append(price)
        return prices

    def types(self, request: RankRequest) -> list[str]:
        """Return the type of each of the first 200 candidates: the request's, else the catalogue's, else `product`.

        The list is empty if all are products.
        """
        types: list[str] = []
        for candidate in request.candidates[:MAX_ITEMS]:
            item = self._catalogue.get(candidate.item_id) if candidate.type is None else None
            types.append(candidate.type or (PRODUCT if item is None else item.type))
        return types if set(types) != {PRODUCT} else []

    def build(
        self, request: RankRequest, query_id: str, event_ts: int, prices: list[int], types: list[str]
    ) -> RequestFeatures:
        """Return the features of a request as of `event_ts`, with the candidates' `prices` and `types`."""
        ids = [candidate.item_id for candidate in request.candidates[:MAX_ITEMS]]
        items = self._examples.item_f16(ids, prices)
        traits = request.client
        context = context_f16(
            event_ts=event_ts,
            page=request.query.page,
            total_hits=request.query.total_hits,
            age_band=traits.age_band if traits else None,
            gender=traits.gender if traits else None,
            tokens=query_tokens(request.query.text or "", self._query_hash_key),
            query_vector=request.query.vector or (),
        )
        history = self._profiles.history(request.client_id, event_ts)
        lists = request_list(
            query_id=query_id,
            item_ids=ids[: self._num_scored],
            items=items[: self._num_scored],
            context=context,
            history=history,
            category=request.query.category,
            item_types=types[: self._num_scored],
            session_id=request.session_id,
        )
        return RequestFeatures(
            items=items, context=context, history=history, example=self._examples.from_request(lists)
        )


def logged(features: RequestFeatures, rows: list[int]) -> Features:
    """Return the features that an impression carries; `rows` gives the incoming row of each logged position."""
    return Features(
        schema=FEATURE_SCHEMA,
        item_f16=np.ascontiguousarray(features.items[rows], dtype="<f2").tobytes(),
        context_f16=features.context.astype("<f2").tobytes(),
        history=features.history,
    )
