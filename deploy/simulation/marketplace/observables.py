"""Visible properties of items: catalogue records with float16 vectors, prices, sales and ratings."""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.world import LATENT, TEXTS_PER_CATEGORY, TYPES, Floats, World, category_of_text
from stream.schemas.events import Item
from stream.schemas.times import DAY_MS

WIDTH = 16
CURRENCY = "EUR"
# By type: middle and spread of the stars, and sales in units of the logarithm. Numbers of two types do not compare.
_STARS_MIDDLE = np.array([3.8, 4.3, 3.0, 4.0])
_STARS_SPREAD = np.array([0.4, 0.2, 0.8, 0.1])
_SALES_LEVEL = np.array([0.0, -0.5, 1.0, -1.5])


class Shelf:
    """The visible side of a world.

    Attributes:
        rating_J: Stars, 1 to 5, on a scale that the item's type has.
        sales_J: Units sold in 28 days, of views or other uses for other types than products; 0 for items that are
            launched later.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        dials, truth = world.settings, world.items
        rng = generator(dials.seed, "observables")
        J = dials.items
        noise_JK = rng.normal(0.0, 1.0, (J, WIDTH))
        self._image_JD = truth.look @ _rotation(rng).T + dials.image_noise * noise_JK
        if dials.shuffled_images:
            # Numbers of their own, so that the other observables stay the same.
            shuffles = generator(dials.seed, "shuffled images")
            for items in world.by_category:
                self._image_JD[items] = self._image_JD[shuffles.permutation(items)]
        said_JK = (1 - dials.mu) * truth.meaning + dials.mu * truth.look
        self._text_JD = said_JK @ _rotation(rng).T + 0.3 * rng.normal(0.0, 1.0, (J, WIDTH))
        self._has_image_J: NDArray[np.bool_] = rng.random(J) >= dials.p_miss
        spread_J = _STARS_SPREAD[truth.type]
        noise_J = spread_J / 0.4 * rng.normal(0.0, 0.4, J)
        self.rating_J = np.clip(_STARS_MIDDLE[truth.type] + spread_J * truth.quality + noise_J, 1.0, 5.0)
        appeal_J = 0.7 * truth.quality - 0.5 * (truth.log_price - truth.log_price.mean())
        log_sales_J = 2.5 + appeal_J + rng.normal(0.0, 0.7, J) + _SALES_LEVEL[truth.type]
        sales_J = rng.poisson(np.exp(np.minimum(log_sales_J, 9.0)))
        self.sales_J = np.where(truth.launch_ts > 0, 0, sales_J)
        self.image_space, self.text_space = (_space(name, dials.seed) for name in ("image", "text"))

    def item(self, j: int) -> Item:
        """Return the catalogue record of item number `j`."""
        truth, dials = self._world.items, self._world.settings
        launch_ts = int(truth.launch_ts[j])
        category = category_name(int(truth.category[j]))
        return Item(
            item_id=item_name(j),
            title=f"{category} {item_name(j)}",
            brand_id=f"brand-{truth.brand[j]}",
            shop_id=f"shop-{truth.shop[j]}",
            category_ids=["all", category],
            type=TYPES[truth.type[j]],
            price_minor=int(truth.price_minor[j]),
            currency=CURRENCY,
            sales_28d=int(self.sales_J[j]),
            image_vec=_f16(self._image_JD[j]) if self._has_image_J[j] else None,
            image_model=self.image_space if self._has_image_J[j] else None,
            text_vec=_f16(self._text_JD[j]),
            text_model=self.text_space,
            updated_ts=launch_ts or dials.start_ts - DAY_MS,
            attributes={"rating": round(float(self.rating_J[j]), 2), "promotion": float(truth.promoted[j])},
        )

    def items_at(self, at_ts: int) -> Iterator[Item]:
        """Yield the records of all items launched by `at_ts`."""
        yield from (self.item(int(j)) for j in np.flatnonzero(self._world.items.launch_ts <= at_ts))


def item_name(j: int) -> str:
    """Return the id of item number `j`."""
    return f"item-{j:06d}"


def category_name(category: int) -> str:
    """Return the id of a category."""
    return f"category-{category}"


def query_text(text: int) -> str:
    """Return the words of a query text: those of its category, and those that tell it apart.

    >>> query_text(23)
    'category 1 style 3'
    """
    return f"category {category_of_text(text)} style {text % TEXTS_PER_CATEGORY}"


def text_hash(seed: int, text: int) -> str:
    """Return the keyed hash that stands for a query text in events."""
    return sha256(f"shelfwise-marketplace\0{seed}\0{text}".encode()).hexdigest()[:32]


def _rotation(rng: np.random.Generator) -> Floats:
    orthonormal, _ = np.linalg.qr(rng.normal(0.0, 1.0, (WIDTH, LATENT)))
    return np.asarray(orthonormal, dtype=np.float64)


def _f16(vector: Floats) -> bytes:
    return vector.astype("<f2").tobytes()


def _space(modality: str, seed: int) -> str:
    return sha256(f"shelfwise-marketplace\0{modality}\0{seed}\0{WIDTH}".encode()).hexdigest()
