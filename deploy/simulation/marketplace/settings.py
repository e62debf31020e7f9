"""Settings of the simulated shop."""

from dataclasses import dataclass
from typing import Literal

ClickModelName = Literal["pbm", "cascade", "dcm", "dbn"]
DelayName = Literal["fast", "slow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketplaceSettings:
    """One world and the traffic through it.

    Attributes:
        seed: Key of all random numbers.
        start_ts: Simulated time of the first moment, epoch ms; the default is 2026-01-05 00:00 UTC.
        hours: Simulated hours with searches.
        rate: Searches per simulated hour.
        clients: Number of clients; who comes is drawn by their activity.
        items: Number of items over all categories.
        categories: Number of categories.
        candidates: Length of the list that the upstream ranker hands over.
        other_types: Share of items that are sponsored, videos or cards, in equal parts; the others are products.
        type_worth: Spread over categories of how much more an item of another type is worth than a product.
        kv: Weight of the image taste in the utility.
        kt: Weight of the text taste in the utility.
        loyalty: Weight of the client's favourite brand in the utility.
        trend: Weight of the items' fashion over time in the utility.
        rho: Weight of the list context: price contrast, decoys, satiation.
        mu: Overlap dial: how much of the look the text vector repeats.
        image_noise: Standard deviation of the noise on image vectors.
        shuffled_images: Whether image vectors change places inside their categories, so that they say nothing.
        p_miss: Share of items without an image vector.
        chi: Share of items launched while the searches run.
        eta: Decay of attention over positions, for `pbm`.
        first_slot: How much more attention the first position gets than the decay says, for `pbm`; fitted to the
            click shares of the trivago log of 2019.
        epsilon: Chance that the upstream ranker swaps a pair of neighbours.
        click_model: `pbm`, `cascade`, `dcm` or `dbn`.
        delay: `fast` (minutes) or `slow` (days) from a click to the order.
        list_ctr: Share of lists with a click under the upstream order; the intercept is fitted to it. Assumption.
        cvr: Share of lists with an order under the upstream order; fitted likewise. Assumption.
        conversion_boost: Multiplies `cvr`, so that a short run sees enough orders. Assumption of the demo.
        basket: Whether an order holds all clicked items that the shopper wants, instead of the first one.
        cart_share: Share of orders preceded by an add to cart.
        refund_share: Share of orders sent back.
        refund_delay_h: Median hours from an order to its refund.
        duplicates: Share of clicks and conversions that are sent twice.
        late: Share of clicks and conversions that are sent half an hour (median) after they happened.
        outages: Number of outages of the collector: clicks and conversions of that time are sent at its end.
        outage_min: Simulated minutes of an outage.
        bots: Whether a share of the visits clicks on everything it sees.
        visit_median: Median number of searches of a visit.
        visit_p90: 90 % quantile of the searches of a visit.
        tick_s: Simulated seconds between two ticks while searches run.
        drain_h: Simulated hours after the last search in which orders and refunds still arrive; later ones are dropped
            and counted.
        settle_h: Simulated hours that the last ticks jump ahead, beyond all windows of the join.
        serving: Where the ranking service listens.
        concurrency: Requests in flight at a time.
        pace: Simulated seconds per wall second, 0 = as fast as possible.
    """

    seed: int = 1
    start_ts: int = 1_767_571_200_000
    hours: float = 6.0
    rate: float = 1_200.0
    clients: int = 20_000
    items: int = 2_000
    categories: int = 8
    candidates: int = 30
    other_types: float = 0.0
    type_worth: float = 1.0
    kv: float = 1.0
    kt: float = 1.0
    loyalty: float = 1.0
    trend: float = 1.0
    rho: float = 0.6
    mu: float = 0.3
    image_noise: float = 0.3
    shuffled_images: bool = False
    p_miss: float = 0.1
    chi: float = 0.1
    eta: float = 0.7
    first_slot: float = 1.25
    epsilon: float = 0.05
    click_model: ClickModelName = "pbm"
    delay: DelayName = "fast"
    list_ctr: float = 0.2
    cvr: float = 0.03
    conversion_boost: float = 1.0
    basket: bool = False
    cart_share: float = 0.5
    refund_share: float = 0.1
    refund_delay_h: float = 72.0
    duplicates: float = 0.01
    late: float = 0.002
    outages: int = 0
    outage_min: float = 20.0
    bots: bool = False
    visit_median: float = 3.0
    visit_p90: float = 24.0
    tick_s: float = 15.0
    drain_h: float = 24.0
    settle_h: float = 216.0
    serving: str = "http://127.0.0.1:8080"
    concurrency: int = 4
    pace: float = 0.0

    def __post_init__(self) -> None:
        shares = ("mu", "p_miss", "chi", "epsilon", "list_ctr", "cvr", "cart_share", "refund_share", "other_types")
        for name in shares:
            _between(name, getattr(self, name), 0.0, 1.0)
        for name in ("duplicates", "late"):
            _between(name, getattr(self, name), 0.0, 0.5)
        for name in ("rate", "hours", "tick_s", "visit_median", "first_slot", "conversion_boost", "refund_delay_h"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected more than 0")
        for name in (
            "kv",
            "kt",
            "loyalty",
            "trend",
            "rho",
            "eta",
            "type_worth",
            "image_noise",
            "outages",
            "outage_min",
            "drain_h",
            "settle_h",
            "pace",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 or more")
        _between("candidates", self.candidates, 1, 200)
        _between("concurrency", self.concurrency, 1, 64)
        if self.clients < 1 or self.categories < 1:
            raise ValueError(f"clients = {self.clients}, categories = {self.categories}: expected 1 or more")
        # Launches may leave half of a category, and still a full list must be found.
        if self.items < 3 * self.candidates * self.categories:
            raise ValueError(
                f"items = {self.items}: expected at least 3 x candidates x categories"
                f" = {3 * self.candidates * self.categories}"
            )
        if self.visit_p90 <= self.visit_median:
            raise ValueError(f"visit_p90 = {self.visit_p90}: expected more than visit_median = {self.visit_median}")
        if self.conversion_boost * self.cvr > 0.9 * self.list_ctr:
            raise ValueError(
                f"conversion_boost x cvr = {self.conversion_boost * self.cvr:.3f}: expected at most"
                f" 0.9 x list_ctr = {0.9 * self.list_ctr:.3f}"
            )


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: expected {low} to {high}")
