"""Rankers of a list before the shopper sees it: the ranking service, or none."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from deploy.simulation.marketplace import shopping
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.observables import CURRENCY, item_name, query_text
from deploy.simulation.marketplace.world import AGE_BANDS, GENDERS, Ints
from serving.http.client import RankClient, UnavailableError
from serving.schemas import Candidate, ClientTraits, QueryText, RankAnswer, RankRequest
from stream.errors import BusError, ConfigError, ShelfwiseError

RETRY_S = 20.0
REQUEST_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An ordered list.

    Attributes:
        order: Index into the incoming order, per shown position.
        arm: Arm that the service named, or an empty string.
        is_fallback: Whether the service fell back to the incoming order.
        lineage, version: The version that ranked the list; None if none did.
        impression: The record to send, when the ranker leaves that to the driver.
    """

    order: Ints
    arm: str = ""
    is_fallback: bool = False
    lineage: str | None = None
    version: str | None = None
    impression: bytes | None = None


class Ranker(Protocol):
    """Orders the candidates of a search."""

    def rank(self, listing: Listing) -> Ranked:
        """Return the order to show.

        Raises:
            BusError: If no order could be had.
        """
        ...


class IncomingOrder:
    """Shows the upstream order and writes the impressions itself: the marketplace without a ranking service."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def rank(self, listing: Listing) -> Ranked:
        """Return the incoming order with its impression."""
        order = np.arange(len(listing.candidates.items))
        return Ranked(order=order, impression=shopping.impression(self._market, listing, order))


class RankingService:
    """Asks a ranking service over one kept connection per thread; waits up to 20 s for a service that is not there.

    A request is repeated, under the same query id, only when no answer came or the service was overloaded.

    Guarantees: `wait` may return true to say that the run was asked to stop; then nothing is repeated any more.
    """

    def __init__(
        self,
        market: Market,
        url: str,
        *,
        token: str = "",
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        try:
            self._client = RankClient(url, timeout_s=REQUEST_TIMEOUT_S, token=token)
        except ConfigError as error:
            raise ConfigError(f"marketplace.serving: {error}") from error
        self._market = market
        self._monotonic = monotonic
        self._wait = wait

    def rank(self, listing: Listing) -> Ranked:
        """Return the order that the service answers.

        Raises:
            BusError: If it stays away, refuses the request, or answers with other items.
        """
        body = msgspec.json.encode(rank_request(self._market, listing))
        names = [item_name(j) for j in listing.candidates.items.tolist()]
        answer = self._answer(body)
        index = {name: i for i, name in enumerate(names)}
        shown = [item.item_id for item in answer.items]
        if sorted(shown) != sorted(names):
            raise BusError(f"ranking service: expected the {len(names)} candidates back, got {len(shown)} items")
        order = np.array([index[name] for name in shown], dtype=np.int64)
        return Ranked(
            order=order,
            arm=answer.arm or "",
            is_fallback=bool(answer.fallback),
            lineage=answer.lineage,
            version=answer.version,
        )

    def close(self) -> None:
        """Close the kept connections of all threads; nothing may be in flight."""
        self._client.close()

    def _answer(self, body: bytes) -> RankAnswer:
        deadline = self._monotonic() + RETRY_S
        pause_s = 0.05
        while True:
            try:
                return self._client.rank(body)
            except UnavailableError as error:
                if self._monotonic() + pause_s > deadline:
                    raise BusError(f"ranking service: {error}") from error
            except ShelfwiseError as error:
                raise BusError(f"ranking service: {error}") from error
            if self._wait(pause_s):
                raise BusError("ranking service: given up, as the run was asked to stop")
            pause_s = min(2 * pause_s, 1.0)


def rank_request(market: Market, listing: Listing) -> RankRequest:
    """Return the request of a search, with its candidates in incoming order."""
    settings, search = market.settings, listing.search
    clients, prices = market.world.clients, market.world.items.price_minor
    query = shopping.query_of(settings, search)
    return RankRequest(
        client_id=shopping.client_id(search),
        query_id=shopping.query_id(settings, search),
        session_id=shopping.visit_id(settings, search),
        query=QueryText(
            text=query_text(search.text),
            category=query.category,
            page=query.page,
            total_hits=query.total_hits,
        ),
        currency=CURRENCY,
        candidates=[
            Candidate(item_id=item_name(j), price_minor=int(prices[j])) for j in listing.candidates.items.tolist()
        ],
        client=ClientTraits(
            age_band=AGE_BANDS[clients.age_band[search.client]], gender=GENDERS[clients.gender[search.client]]
        ),
        event_ts=search.event_ts,
    )
