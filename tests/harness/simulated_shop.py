"""Sessions straight from the shoppers of the simulated shop: no broker, no join, labels at once, features as served."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace import shopping
from deploy.simulation.marketplace.market import Listing, Market, Outcome
from deploy.simulation.marketplace.observables import CURRENCY, item_name
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import searches
from deploy.simulation.marketplace.world import AGE_BANDS, GENDERS, TYPES, Ints
from stream.replicas.catalogue import Catalogue
from stream.schemas.events import PRODUCT
from stream.schemas.session import ACTION_CODES, Session
from trainer.features import FEATURE_SCHEMA, HISTORY_MAX, context_f16, item_f16

_CLICK, _CART, _BOUGHT = (ACTION_CODES[name] for name in ("click", "add_to_cart", "purchase"))


@dataclass
class SimulatedShop:
    """One market, its catalogue as of the newest listing, and the behaviours of its clients."""

    settings: MarketplaceSettings
    market: Market = field(init=False)
    catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self.market = Market(self.settings)
        self.catalogue = Catalogue(self.market.shelf.items_at(self.settings.start_ts))
        launch_ts = self.market.world.items.launch_ts
        self._launches = [int(j) for j in np.argsort(launch_ts, kind="stable") if launch_ts[j] > self.settings.start_ts]
        # Newest first: item, category, action, time.
        self._behaviours: dict[int, deque[tuple[str, str, int, int]]] = {}

    def listings(self) -> Iterator[Listing]:
        """Yield the lists of all searches in the order of time, and let items enter the catalogue."""
        for search in searches(self.market.world):
            while self._launches and self.market.world.items.launch_ts[self._launches[0]] <= search.event_ts:
                self.catalogue.put(self.market.shelf.item(self._launches.pop(0)))
            yield self.market.listing(search)

    def show(self, listing: Listing, order: Ints, propensity: NDArray[np.float64]) -> Session:
        """Return the session of a list in the order shown; position k shows the candidate `order[k]`."""
        outcome = self.market.respond(listing, order)
        session = self._session(listing, order, propensity, outcome)
        self._remember(listing, outcome)
        return session

    def _session(self, listing: Listing, order: Ints, propensity: NDArray[np.float64], outcome: Outcome) -> Session:
        search, n = listing.search, len(order)
        query = shopping.query_of(self.settings, search)
        shown = listing.candidates.items[order]
        names = [item_name(j) for j in shown.tolist()]
        prices = self.market.world.items.price_minor[shown]
        types = [TYPES[kind] for kind in self.market.world.items.type[shown].tolist()]
        clients = self.market.world.clients
        context = context_f16(
            event_ts=search.event_ts,
            page=search.page,
            total_hits=query.total_hits,
            age_band=AGE_BANDS[clients.age_band[search.client]],
            gender=GENDERS[clients.gender[search.client]],
        )
        history = list(self._behaviours.get(search.client, ()))
        clicks, carts, orders, gross = (np.zeros(n, dtype) for dtype in ("<u2", "<u2", "<u2", "<i8"))
        for click in outcome.clicks:
            clicks[click.position] = 1
            carts[click.position] = click.cart_delay_ms is not None
        if outcome.order is not None:
            (line,) = outcome.order.lines
            (row,) = np.flatnonzero(shown == line.item)
            orders[row], gross[row] = 1, line.amount_minor
        none = np.full(n, -1, "<i8").tobytes()
        return Session(
            query_id=shopping.query_id(self.settings, search),
            client_id=shopping.client_id(search),
            session_id=shopping.visit_id(self.settings, search),
            user_id=None,
            revision=0,
            reason="close",
            label_key=bytes(8),
            impression_ts=search.event_ts,
            close_ts=search.event_ts,
            watermark_ts=search.event_ts,
            src=(0, 0),
            query_hash=query.hash or "",
            query_category=query.category,
            currency=CURRENCY,
            assignment=[],
            lineage=None,
            version=None,
            fallback=None,
            triggered=None,
            n=n,
            item_id=names,
            item_type=[] if set(types) == {PRODUCT} else types,
            rank_in=(order + 1).astype("<u2").tobytes(),
            score=b"",
            price_minor=prices.astype("<i8").tobytes(),
            propensity=propensity.astype("<f4").tobytes(),
            feature_schema=bytes.fromhex(FEATURE_SCHEMA),
            item_f16=item_f16([self.catalogue.get(name) for name in names], prices).astype("<f2").tobytes(),
            context_f16=context.astype("<f2").tobytes(),
            hist_item=[each[0] for each in history],
            hist_category=[each[1] for each in history],
            hist_action=np.array([each[2] for each in history], "<u1").tobytes(),
            hist_age_s=np.array([(search.event_ts - each[3]) // 1_000 for each in history], "<u4").tobytes(),
            clicks=clicks.tobytes(),
            carts=carts.tobytes(),
            orders=orders.tobytes(),
            units=orders.astype("<u4").tobytes(),
            click_delay_ms=none,
            order_delay_ms=none,
            gross_minor=gross.tobytes(),
            refund_minor=np.zeros(n, "<i8").tobytes(),
            changed=b"",
            events=[],
            lines=[],
        )

    def _remember(self, listing: Listing, outcome: Outcome) -> None:
        search = listing.search
        category = shopping.query_of(self.settings, search).category or ""
        own = self._behaviours.setdefault(search.client, deque(maxlen=HISTORY_MAX))
        for click in outcome.clicks:
            own.appendleft((item_name(click.item), category, _CLICK, search.event_ts))
            if click.cart_delay_ms is not None:
                own.appendleft((item_name(click.item), category, _CART, search.event_ts))
        if outcome.order is not None:
            own.extendleft((item_name(line.item), category, _BOUGHT, search.event_ts) for line in outcome.order.lines)
