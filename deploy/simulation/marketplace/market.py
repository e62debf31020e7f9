"""One search from the incoming order to clicks and an order, and the truth about any order of the same list.

Shapes: n items of one list; columns named `_in` are in incoming order, `_shown` in shown order; Q lists at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.simulation.marketplace import delays, utility
from deploy.simulation.marketplace.choice import ClickModel
from deploy.simulation.marketplace.observables import Shelf
from deploy.simulation.marketplace.policy import Candidates, LoggingPolicy
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import Search
from deploy.simulation.marketplace.world import Floats, Ints, World, draw

_CALIBRATION_LISTS = 400
BUY_PRICE = 0.5
MEAN_QUANTITY = 1.15
SATISFY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A search with its candidates and what only the truth knows about them, in incoming order."""

    search: Search
    candidates: Candidates
    utility_in: Floats
    uniforms_in: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClick:
    """A click on a shown position (from 0), `delay_ms` after the impression."""

    position: int
    item: int
    delay_ms: int
    cart_delay_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownLine:
    """One bought item of an order."""

    item: int
    quantity: int
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownOrder:
    """The order of a list; delays count from the impression, a refund of None never comes."""

    lines: tuple[ShownLine, ...]
    delay_ms: int
    refund_delay_ms: int | None

    @property
    def amount_minor(self) -> int:
        """Return the money of all lines."""
        return sum(line.amount_minor for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Actions of a shopper on one shown list."""

    clicks: tuple[ShownClick, ...]
    order: ShownOrder | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The truth about one shown list: chances of any click and of an order, expected money in minor units."""

    click: float
    order: float
    gmv_minor: float


class Market:
    """A drawn world, calibrated so that the upstream order meets the configured click and order shares.

    Attributes:
        attract_intercept, buy_intercept: The fitted intercepts of the two logits.
    """

    def __init__(self, settings: MarketplaceSettings) -> None:
        self.settings = settings
        self.world: World = draw(settings)
        self.shelf = Shelf(self.world)
        self._policy = LoggingPolicy(self.world, self.shelf)
        self._clicks = ClickModel(name=settings.click_model, eta=settings.eta, first_slot=settings.first_slot)
        self.attract_intercept, self.buy_intercept = 0.0, 0.0
        self._calibrate()

    def listing(self, search: Search) -> Listing:
        """Return the incoming order of a search; every random number of the list is drawn here, per item."""
        rng = generator(self.settings.seed, "list", search.client, search.number)
        candidates = self._policy.retrieve(search.text, search.event_ts, rng)
        utility_in = utility.alone(
            self.world,
            client=search.client,
            text=search.text,
            items=candidates.items,
            relevance_n=candidates.relevance_n,
            at_ts=search.event_ts,
        )
        uniforms_in = rng.random((4, len(candidates.items)))
        return Listing(search=search, candidates=candidates, utility_in=utility_in, uniforms_in=uniforms_in)

    def respond(self, listing: Listing, order: Ints) -> Outcome:
        """Return what the shopper does when position k shows the item that came in at index `order[k]`."""
        search, items_shown = listing.search, listing.candidates.items[order]
        uniforms_shown = listing.uniforms_in[:, order]
        attract_shown, buy_shown, satisfy_shown = self._chances(listing, order)
        if search.is_bot:
            clicked = np.arange(len(order))
        else:
            clicked = np.flatnonzero(self._clicks.clicks(attract_shown, satisfy_shown, uniforms_shown[:3]))
        if not len(clicked):
            return Outcome(clicks=(), order=None)
        rng = generator(self.settings.seed, "times", search.client, search.number)
        wants = [] if search.is_bot else [k for k in clicked.tolist() if uniforms_shown[3, k] < buy_shown[k]]
        bought = wants if self.settings.basket else wants[:1]
        gaps_ms = [100 if search.is_bot else delays.lognormal_ms(rng, 15_000, 0.9) for _ in clicked]
        cart_gap_ms = delays.lognormal_ms(rng, 20_000, 0.7) if rng.random() < self.settings.cart_share else None
        at_ms = np.cumsum(gaps_ms).tolist()
        clicks = tuple(
            ShownClick(
                position=k,
                item=int(items_shown[k]),
                delay_ms=ms,
                cart_delay_ms=ms + cart_gap_ms if k in bought and cart_gap_ms is not None else None,
            )
            for k, ms in zip(clicked.tolist(), at_ms, strict=True)
        )
        if not bought:
            return Outcome(clicks=clicks, order=None)
        clicked_ms = at_ms[clicked.tolist().index(bought[-1])]
        return Outcome(
            clicks=clicks, order=self._order(rng, items_shown[bought].tolist(), clicked_ms, cart_gap_ms or 0)
        )

    def expect(self, listing: Listing, order: Ints) -> Expectation:
        """Return the truth about a shown order; exact for `pbm`, to first order in repeated buying for the others."""
        attract_shown, buy_shown, satisfy_shown = self._chances(listing, order)
        clicked_shown = self._clicks.examined(attract_shown, satisfy_shown) * attract_shown
        wants_shown = clicked_shown * buy_shown
        nothing_above_shown = np.concatenate([[1.0], np.cumprod(1 - wants_shown)[:-1]])
        bought_shown = wants_shown if self.settings.basket else wants_shown * nothing_above_shown
        price_shown = self.world.items.price_minor[listing.candidates.items[order]]
        return Expectation(
            click=float(1 - self._clicks.no_click(attract_shown)),
            order=float(np.sum(wants_shown * nothing_above_shown)),
            gmv_minor=float(np.sum(bought_shown * price_shown)) * MEAN_QUANTITY,
        )

    def _chances(self, listing: Listing, order: Ints) -> tuple[Floats, Floats, Floats]:
        items_shown = listing.candidates.items[order]
        felt_shown = listing.utility_in[order] + utility.in_context(self.world, items_shown)
        log_price_shown = self.world.items.log_price[items_shown]
        dear_shown = log_price_shown - np.median(log_price_shown)
        attract_shown = _sigmoid(self.attract_intercept + felt_shown)
        buy_shown = _sigmoid(self.buy_intercept + felt_shown - BUY_PRICE * dear_shown)
        return attract_shown, buy_shown, SATISFY * _sigmoid(felt_shown)

    def _order(self, rng: np.random.Generator, items: list[int], clicked_ms: int, cart_gap_ms: int) -> ShownOrder:
        lines = [self._line(rng, items[0])]
        delay_ms = clicked_ms + cart_gap_ms + delays.order_ms(rng, self.settings.delay)
        is_sent_back = rng.random() < self.settings.refund_share
        refund_gap_ms = delays.refund_ms(rng, self.settings.refund_delay_h)
        lines += [self._line(rng, item) for item in items[1:]]
        return ShownOrder(
            lines=tuple(lines),
            delay_ms=delay_ms,
            refund_delay_ms=delay_ms + refund_gap_ms if is_sent_back else None,
        )

    def _line(self, rng: np.random.Generator, item: int) -> ShownLine:
        quantity = 1 + int(rng.random() < MEAN_QUANTITY - 1)
        return ShownLine(item=item, quantity=quantity, amount_minor=quantity * int(self.world.items.price_minor[item]))

    def _calibrate(self) -> None:
        dials = self.settings
        rng = generator(dials.seed, "calibration")
        listings = []
        for number in range(_CALIBRATION_LISTS):
            search = Search(
                event_ts=dials.start_ts,
                client=int(rng.choice(dials.clients, p=self.world.clients.activity)),
                # Below zero: no shopper ever draws these keys.
                number=-1 - number,
                text=int(rng.integers(self.world.num_texts)),
                page=1,
                visit=-1,
                is_bot=False,
            )
            listings.append(self.listing(search))
        order = np.arange(dials.candidates)

        def chances() -> tuple[Floats, Floats, Floats]:
            columns = [self._chances(listing, order) for listing in listings]
            attract, buy, satisfy = (np.stack([column[i] for column in columns]) for i in range(3))
            return attract, buy, satisfy

        logit_attract_Qn = _logit(chances()[0])

        def clicked_share(intercept: float) -> float:
            return float(np.mean(1 - self._clicks.no_click(_sigmoid(logit_attract_Qn + intercept))))

        self.attract_intercept = _bisect(clicked_share, dials.list_ctr)
        attract_Qn, buy_Qn, satisfy_Qn = chances()
        clicked_Qn = self._clicks.examined(attract_Qn, satisfy_Qn) * attract_Qn
        logit_buy_Qn = _logit(buy_Qn)

        def ordered_share(intercept: float) -> float:
            return float(np.mean(1 - np.prod(1 - clicked_Qn * _sigmoid(logit_buy_Qn + intercept), axis=-1)))

        self.buy_intercept = _bisect(ordered_share, dials.cvr * dials.conversion_boost)


def _bisect(share: Callable[[float], float], target: float) -> float:
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < target else (low, middle)
    return (low + high) / 2


def _sigmoid(logit: Floats) -> Floats:
    chance: Floats = 1 / (1 + np.exp(-logit))
    return chance


def _logit(chance: Floats) -> Floats:
    logit: Floats = np.log(chance) - np.log1p(-chance)
    return logit
