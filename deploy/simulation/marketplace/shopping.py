"""The events a shopper causes, as they go over the wire, each with the time at which it is sent.

Event ids, ids of queries and orders are functions of the seed, the client and the search: the same shopper seeing the
same list causes the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from deploy.simulation.marketplace import delays
from deploy.simulation.marketplace.market import Listing, Market, Outcome
from deploy.simulation.marketplace.observables import CURRENCY, category_name, item_name, text_hash
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import Search
from deploy.simulation.marketplace.world import TYPES, Ints, category_of_text
from stream.schemas import topics
from stream.schemas.events import PRODUCT, Click, Conversion, Impression, OrderLine, Query, ShownItems, encode
from stream.schemas.identity import event_id
from stream.schemas.times import HOUR_MS, MINUTE_MS

SOURCE = "marketplace"
Kind = Literal["impression", "click", "add_to_cart", "purchase", "refund"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One record to send at `send_ts`.

    Attributes:
        num_lines: Order lines of a purchase or refund, 0 of clicks.
        is_copy: Whether it repeats another one.
        is_late: Whether it is sent long after it happened.
    """

    send_ts: int
    kind: Kind
    topic: str
    key: bytes
    value: bytes
    num_lines: int = 0
    is_copy: bool = False
    is_late: bool = False


def client_id(search: Search) -> str:
    """Return the pseudonym of the shopper; bots are told apart by name only for the reader of a log."""
    return f"{'bot' if search.is_bot else 'client'}-{search.client:06d}"


def run_id(settings: MarketplaceSettings) -> str:
    """Return what tells two runs on the same topics apart: their seed and their first moment.

    >>> run_id(MarketplaceSettings())
    '1.695aff00'
    """
    return f"{settings.seed}.{settings.start_ts // 1_000:x}"


def query_id(settings: MarketplaceSettings, search: Search) -> str:
    """Return the id of a search."""
    return f"q{run_id(settings)}-{search.client}-{search.number}"


def visit_id(settings: MarketplaceSettings, search: Search) -> str:
    """Return the id of the browsing visit."""
    return f"v{run_id(settings)}-{search.visit}"


def query_of(settings: MarketplaceSettings, search: Search) -> Query:
    """Return the query as events carry it."""
    return Query(
        hash=text_hash(settings.seed, search.text),
        category=category_name(category_of_text(search.text)),
        page=search.page,
        total_hits=settings.items // settings.categories,
    )


def impression(market: Market, listing: Listing, order: Ints) -> bytes:
    """Return the impression of a list that no ranking service has seen: without features, with propensities."""
    settings, search, candidates = market.settings, listing.search, listing.candidates
    types = [TYPES[kind] for kind in market.world.items.type[candidates.items[order]].tolist()]
    return encode(
        Impression(
            event_id=event_id(search.event_ts, settings.seed, "impression", search.client, search.number),
            event_ts=search.event_ts,
            client_id=client_id(search),
            session_id=visit_id(settings, search),
            source=SOURCE,
            query_id=query_id(settings, search),
            query=query_of(settings, search),
            currency=CURRENCY,
            items=ShownItems(
                object_id=[item_name(j) for j in candidates.items[order].tolist()],
                rank_in=(order + 1).tolist(),
                price_minor=market.world.items.price_minor[candidates.items[order]].tolist(),
                propensity=candidates.propensity_n[order].tolist(),
                type=types if set(types) != {PRODUCT} else None,
            ),
        )
    )


def sendings(settings: MarketplaceSettings, search: Search, outcome: Outcome) -> Iterator[Sending]:
    """Yield clicks, cart additions, the order and its refund, with duplicates and late ones as configured."""
    rng = generator(settings.seed, "faults", search.client, search.number)
    outages, num_lines = _outages(settings), len(outcome.order.lines) if outcome.order is not None else 0
    for kind, event_ts, value in _events(settings, search, outcome):
        is_late = bool(rng.random() < settings.late)
        delay_ms = delays.lognormal_ms(rng, 1_800_000, 0.7)
        is_click = kind in {"click", "add_to_cart"}
        send_ts = event_ts + (delay_ms if is_late else 0)
        held_until_ts = max((end_ts for start_ts, end_ts in outages if start_ts <= send_ts < end_ts), default=send_ts)
        first = Sending(
            send_ts=held_until_ts,
            kind=kind,
            topic=topics.CLICKS if is_click else topics.CONVERSIONS,
            key=client_id(search).encode(),
            value=value,
            num_lines=0 if is_click else num_lines,
            is_late=is_late or held_until_ts > send_ts,
        )
        yield first
        if rng.random() < settings.duplicates:
            yield Sending(
                send_ts=first.send_ts + delays.lognormal_ms(rng, 2_000, 1.5),
                kind=kind,
                topic=first.topic,
                key=first.key,
                value=value,
                num_lines=first.num_lines,
                is_copy=True,
                is_late=first.is_late,
            )


def _events(settings: MarketplaceSettings, search: Search, outcome: Outcome) -> Iterator[tuple[Kind, int, bytes]]:
    for click in outcome.clicks:
        event_ts = search.event_ts + click.delay_ms
        yield (
            "click",
            event_ts,
            _click(settings, search, "click", event_ts=event_ts, item=click.item, position=click.position),
        )
        if click.cart_delay_ms is not None:
            event_ts = search.event_ts + click.cart_delay_ms
            yield (
                "add_to_cart",
                event_ts,
                _click(settings, search, "add_to_cart", event_ts=event_ts, item=click.item, position=click.position),
            )
    if outcome.order is not None:
        event_ts = search.event_ts + outcome.order.delay_ms
        yield "purchase", event_ts, _conversion(settings, search, outcome, "purchase", event_ts)
        if outcome.order.refund_delay_ms is not None:
            event_ts = search.event_ts + outcome.order.refund_delay_ms
            yield "refund", event_ts, _conversion(settings, search, outcome, "refund", event_ts)


@cache
def _outages(settings: MarketplaceSettings) -> tuple[tuple[int, int], ...]:
    """Return start and end of each outage."""
    rng = generator(settings.seed, "outages")
    starts_ms = rng.uniform(0, settings.hours * HOUR_MS, settings.outages)
    starts = [settings.start_ts + int(start_ms) for start_ms in np.sort(starts_ms)]
    return tuple((start_ts, start_ts + int(settings.outage_min * MINUTE_MS)) for start_ts in starts)


def _click(
    settings: MarketplaceSettings,
    search: Search,
    action: Literal["click", "add_to_cart"],
    *,
    event_ts: int,
    item: int,
    position: int,
) -> bytes:
    return encode(
        Click(
            event_id=event_id(event_ts, settings.seed, action, search.client, search.number, item),
            event_ts=event_ts,
            client_id=client_id(search),
            session_id=visit_id(settings, search),
            source=SOURCE,
            action_name=action,
            query_id=query_id(settings, search),
            object_id=item_name(item),
            position=position + 1,
        )
    )


def _conversion(
    settings: MarketplaceSettings,
    search: Search,
    outcome: Outcome,
    action: Literal["purchase", "refund"],
    event_ts: int,
) -> bytes:
    order = outcome.order
    assert order is not None
    transaction_id = f"o{run_id(settings)}-{search.client}-{search.number}"
    return encode(
        Conversion(
            event_id=event_id(event_ts, settings.seed, action, search.client, search.number),
            event_ts=event_ts,
            client_id=client_id(search),
            session_id=visit_id(settings, search),
            source=SOURCE,
            action_name=action,
            transaction_id=transaction_id,
            refund_id=f"{transaction_id}-r" if action == "refund" else None,
            currency=CURRENCY,
            value_minor=order.amount_minor,
            items=[
                OrderLine(
                    line_id=str(number),
                    object_id=item_name(line.item),
                    quantity=line.quantity,
                    amount_minor=line.amount_minor,
                    query_id=query_id(settings, search),
                )
                for number, line in enumerate(order.lines, start=1)
            ],
        )
    )
