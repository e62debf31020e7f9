"""Rankers of a list before the shopper sees it: the ranking service, or none."""

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Struct

from deploy.simulation.marketplace import shopping
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.observables import CURRENCY, item_name
from deploy.simulation.marketplace.world import AGE_BANDS, GENDERS, Ints
from stream.errors import BusError, ConfigError

RETRY_S = 20.0
REQUEST_TIMEOUT_S = 10.0
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An ordered list.

    Attributes:
        order: Index into the incoming order, per shown position.
        arm: Arm that the service named, or an empty string.
        is_fallback: Whether the service fell back to the incoming order.
        impression: The record to send, when the ranker leaves that to the driver.
    """

    order: Ints
    arm: str = ""
    is_fallback: bool = False
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


class _Row(Struct):
    item_id: str


class _Answer(Struct):
    items: list[_Row]
    arm: str | None = None
    fallback: object = None


class RankingService:
    """Asks `POST /v1/rank`, one kept connection per thread; waits up to 20 s for a service that is not there.

    A request is repeated, under the same query id, only when no answer came or the service was overloaded.

    Guarantees: `wait` may return true to say that the run was asked to stop; then nothing is repeated any more.
    """

    def __init__(
        self,
        market: Market,
        url: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"marketplace.serving = {url!r}: expected http://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 80
        self._path = parts.path.rstrip("/") + "/v1/rank"
        self._market = market
        self._monotonic = monotonic
        self._wait = wait
        self._connections = threading.local()
        self._opened: list[http.client.HTTPConnection] = []
        self._decoder = msgspec.json.Decoder(_Answer)

    def rank(self, listing: Listing) -> Ranked:
        """Return the order that the service answers.

        Raises:
            BusError: If it stays away, refuses the request, or answers with other items.
        """
        body = msgspec.json.encode(self._request(listing))
        names = [item_name(j) for j in listing.candidates.items.tolist()]
        answer = self._answer(body)
        index = {name: i for i, name in enumerate(names)}
        shown = [row.item_id for row in answer.items]
        if sorted(shown) != sorted(names):
            raise BusError(f"ranking service: expected the {len(names)} candidates back, got {len(shown)} items")
        order = np.array([index[name] for name in shown], dtype=np.int64)
        return Ranked(order=order, arm=answer.arm or "", is_fallback=bool(answer.fallback))

    def close(self) -> None:
        """Close the kept connections of all threads; nothing may be in flight."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()

    def _request(self, listing: Listing) -> dict[str, object]:
        settings, search = self._market.settings, listing.search
        clients, prices = self._market.world.clients, self._market.world.items.price_minor
        query = shopping.query_of(settings, search)
        return {
            "client_id": shopping.client_id(search),
            "query_id": shopping.query_id(settings, search),
            "session_id": shopping.visit_id(settings, search),
            "query": {
                "hash": query.hash,
                "category": query.category,
                "page": query.page,
                "total_hits": query.total_hits,
            },
            "currency": CURRENCY,
            "candidates": [
                {"item_id": item_name(j), "price_minor": int(prices[j])} for j in listing.candidates.items.tolist()
            ],
            "client": {
                "age_band": AGE_BANDS[clients.age_band[search.client]],
                "gender": GENDERS[clients.gender[search.client]],
            },
            "event_ts": search.event_ts,
        }

    def _answer(self, body: bytes) -> _Answer:
        deadline = self._monotonic() + RETRY_S
        pause_s = 0.05
        while True:
            try:
                status, raw = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                status, raw = _UNAVAILABLE, repr(error).encode()
            if status < 300:
                try:
                    return self._decoder.decode(raw)
                except msgspec.MsgspecError as error:
                    raise BusError(f"ranking service: answer not understood: {error}") from error
            if status != _UNAVAILABLE or self._monotonic() + pause_s > deadline:
                raise BusError(f"ranking service: {status}: {raw[:300].decode(errors='replace')}")
            if self._wait(pause_s):
                raise BusError("ranking service: given up, as the run was asked to stop")
            pause_s = min(2 * pause_s, 1.0)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._connections, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=REQUEST_TIMEOUT_S)
            self._connections.connection = connection
            self._opened.append(connection)
        connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._connections, "connection", None)
        if connection is not None:
            connection.close()
            self._opened.remove(connection)
            self._connections.connection = None
