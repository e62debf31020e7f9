"""The truth of the shop: hidden qualities of items and tastes of clients. No model reads this module's numbers.

Shapes: J items, C clients, G categories, K latent dimensions, T query texts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.schemas.times import HOUR_MS

LATENT = 8
TEXTS_PER_CATEGORY = 20
PRICE_SPREAD = 0.41
TREND_PERIOD_H = 48.0
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
GENDERS = ("female", "male", "unknown")
TYPES = ("product", "sponsored", "video", "card")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Arrays over items: look and meaning are J x K, all others J.

    Attributes:
        look: What the image shows.
        meaning: What the text says.
        launch_ts: When the item enters the catalogue; 0 = from the beginning.
        trend, phase: Amplitude and phase (0 to 1) of the item's fashion over time.
        type: Place in `TYPES`.
        type_worth: How much more the item is worth on a page of its category than a product of the same qualities.
    """

    category: Ints
    brand: Ints
    shop: Ints
    quality: Floats
    look: Floats
    meaning: Floats
    log_price: Floats
    price_minor: Ints
    promoted: NDArray[np.bool_]
    launch_ts: Ints
    trend: Floats
    phase: Floats
    type: Ints
    type_worth: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """Arrays over clients: taste is C x G x K, wish C x K, all others C.

    Attributes:
        taste: Taste for looks, per category.
        wish: Taste for meanings.
        price_weight: Sensitivity to price.
        brand: The brand that the client is loyal to.
        loyalty: How much.
        activity: Share of the visits, sums to 1.
    """

    taste: Floats
    wish: Floats
    price_weight: Floats
    brand: Ints
    loyalty: Floats
    activity: Floats
    age_band: Ints
    gender: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One drawn shop.

    Attributes:
        by_category: Item indices of each category.
        relevance: By query text, the hidden relevance of its category's items, in the order of `by_category`.
    """

    settings: MarketplaceSettings
    items: Items
    clients: Clients
    by_category: tuple[Ints, ...]
    relevance: tuple[Floats, ...]

    @property
    def num_texts(self) -> int:
        """Number of distinct query texts."""
        return len(self.relevance)


def category_of_text(text: int) -> int:
    """Return the category that a query text asks for."""
    return text // TEXTS_PER_CATEGORY


def draw(settings: MarketplaceSettings) -> World:
    """Draw the world of these settings; the same settings give the same world."""
    items = _items(settings)
    by_category = tuple(np.flatnonzero(items.category == g) for g in range(settings.categories))
    relevance = tuple(
        generator(settings.seed, "relevance", text).normal(0.0, 0.7, len(by_category[category_of_text(text)]))
        for text in range(settings.categories * TEXTS_PER_CATEGORY)
    )
    return World(
        settings=settings, items=items, clients=_clients(settings), by_category=by_category, relevance=relevance
    )


def _items(settings: MarketplaceSettings) -> Items:
    rng = generator(settings.seed, "items")
    J = settings.items
    category = np.arange(J) % settings.categories
    quality_J = rng.normal(0.0, 1.0, J)
    look_JK = rng.normal(0.0, 1.0, (J, LATENT))
    meaning_JK = rng.normal(0.0, 1.0, (J, LATENT))
    level_G = rng.normal(np.log(40.0), 0.6, settings.categories)
    log_price_J = level_G[category] + rng.normal(0.0, PRICE_SPREAD, J)
    _make_families(
        rng, settings.categories, quality_J=quality_J, look_JK=look_JK, meaning_JK=meaning_JK, price_J=log_price_J
    )
    promoted = rng.random(J) < 0.1
    log_price_J = log_price_J + np.where(promoted, np.log(0.9), 0.0)
    price_minor = np.maximum(100, np.rint(100 * np.exp(log_price_J))).astype(np.int64)
    is_launched = rng.random(J) < settings.chi
    launch_ms = rng.integers(1, max(2, int(settings.hours * HOUR_MS)), J)
    type_J, worth_J = _types(settings, category)
    return Items(
        category=category,
        brand=rng.integers(0, 60, J),
        shop=rng.integers(0, 40, J),
        quality=quality_J,
        look=look_JK,
        meaning=meaning_JK,
        log_price=np.log(price_minor / 100),
        price_minor=price_minor,
        promoted=promoted,
        launch_ts=np.where(is_launched, settings.start_ts + launch_ms, 0),
        trend=np.abs(rng.normal(0.0, 0.3, J)),
        phase=rng.random(J),
        type=type_J,
        type_worth=worth_J,
    )


def _types(settings: MarketplaceSettings, category_J: Ints) -> tuple[Ints, Floats]:
    """Return type and worth of each item."""
    # Numbers of their own, so that a world of products alone stays the same.
    rng = generator(settings.seed, "types")
    J = settings.items
    is_other_J = rng.random(J) < settings.other_types
    type_J = np.where(is_other_J, rng.integers(1, len(TYPES), J), 0)
    worth_MG = rng.normal(0.0, settings.type_worth, (len(TYPES), settings.categories))
    worth_MG[0] = 0.0
    return type_J, worth_MG[type_J, category_J]


def _make_families(
    rng: np.random.Generator,
    categories: int,
    *,
    quality_J: Floats,
    look_JK: Floats,
    meaning_JK: Floats,
    price_J: Floats,
) -> None:
    # Near-duplicates: without them decoys and satiation would have nothing to act on.
    J = len(quality_J)
    children = np.flatnonzero(rng.random(J) < 0.3)
    children = children[children >= categories]
    # The predecessor in the same category, so that chains of three and more occur as well.
    parents = children - categories
    for child, parent in zip(children.tolist(), parents.tolist(), strict=True):
        look_JK[child] = look_JK[parent] + rng.normal(0.0, 0.2, LATENT)
        meaning_JK[child] = meaning_JK[parent] + rng.normal(0.0, 0.2, LATENT)
        quality_J[child] = 0.7 * quality_J[parent] + rng.normal(0.0, np.sqrt(1 - 0.49))
        price_J[child] = 0.7 * price_J[parent] + 0.3 * price_J[child]


def _clients(settings: MarketplaceSettings) -> Clients:
    rng = generator(settings.seed, "clients")
    C = settings.clients
    activity_C = rng.lognormal(0.0, 1.0, C)
    price_C = rng.lognormal(np.log(0.8), 0.5, C)
    # Age is a weak hint at the price sensitivity; the models see age only.
    age = np.clip(np.rint(2.0 - 0.8 * np.log(price_C / 0.8) + rng.normal(0.0, 1.0, C)), 0, len(AGE_BANDS) - 1)
    return Clients(
        taste=rng.normal(0.0, 1.0, (C, settings.categories, LATENT)) / np.sqrt(LATENT),
        wish=rng.normal(0.0, 1.0, (C, LATENT)) / np.sqrt(LATENT),
        price_weight=price_C,
        brand=rng.integers(0, 60, C),
        loyalty=rng.exponential(0.5, C),
        activity=activity_C / activity_C.sum(),
        age_band=age.astype(np.int64),
        gender=rng.integers(0, len(GENDERS), C),
    )
