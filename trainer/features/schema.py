"""The feature schema: columns that are logged with an impression, and columns that the example builder derives.

Only columns of `ITEM_COLUMNS` and `CONTEXT_COLUMNS` travel; everything else is a pure function of them, of `rank_in`
and of the history as served. Both paths, request and session, start from the float16 values.

Source: docs/training.md.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import Item

ITEM_COLUMNS: Final = ("price", "sales", "rating", "promotion", "known", "has_rating", "has_image", "has_text")
NUMERIC_COLUMNS: Final = ("price", "sales", "rating", "promotion")

AGE_BANDS: Final = ("0-17", "18-24", "25-34", "35-44", "45-54", "55+")
_FINER_BANDS: Final = {"55-64": "55+", "65+": "55+"}
GENDERS: Final = ("female", "male", "other")
QUERY_COLUMNS: Final = ("hour_sin", "hour_cos", "page", "total_hits", "has_total_hits")
CLIENT_COLUMNS: Final = (
    *(f"age_{band}" for band in AGE_BANDS),
    "age_unknown",
    *(f"gender_{gender}" for gender in GENDERS),
    "gender_unknown",
)
CONTEXT_COLUMNS: Final = QUERY_COLUMNS + CLIENT_COLUMNS

RELATIVE_COLUMNS: Final = tuple(f"{name}_{form}" for name in NUMERIC_COLUMNS for form in ("minmax", "rank", "centred"))
TOUCH_COLUMNS: Final = ("touch_count", "touch_recency", "touch_last", "touch_bought", "category_match")
RANK_COLUMNS: Final = ("price_over_previous", "price_over_next")
"""Columns that depend on `rank_in`; a model without rank cuts them off, so they come last."""

NUM_COLUMNS: Final = ITEM_COLUMNS + RELATIVE_COLUMNS + TOUCH_COLUMNS + RANK_COLUMNS
HISTORY_NUM_COLUMNS: Final = ("log_count", "log_age_h")

N_MAX: Final = 30
HISTORY_MAX: Final = 50

_DESCRIPTION: Final = {
    "version": 1,
    "item": ITEM_COLUMNS,
    "context": CONTEXT_COLUMNS,
    "numbers": NUM_COLUMNS,
    "history": HISTORY_NUM_COLUMNS,
    "price": "log1p(price_minor / 100)",
    "sales": "log1p(sales_28d)",
    "hour": "utc",
    "page": "log1p",
    "total_hits": "log1p / 10",
    "n_max": N_MAX,
}

FEATURE_SCHEMA: Final = hashlib.sha256(
    json.dumps(_DESCRIPTION, sort_keys=True, separators=(",", ":")).encode()
).hexdigest()
"""sha256 of the canonical description, 64 hex digits: the value of `Features.schema`."""

_HOUR_MS: Final = 3_600_000
_NUMBER_LIMIT: Final = 1_000.0


def _number(item: Item, name: str) -> float | None:
    value = item.attributes.get(name) if item.attributes else None
    # Comparing is false for NaN, and an integer of any length compares with a float.
    if not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        return None
    return float(min(max(value, -_NUMBER_LIMIT), _NUMBER_LIMIT))


def item_f16(
    items: Sequence[Item | None], price_minor: Sequence[int | None] | NDArray[np.int64] | None = None
) -> NDArray[np.float16]:
    """Return the columns of `ITEM_COLUMNS` for each candidate, as they are logged.

    Args:
        items: The catalogue's records; None for an item that it does not hold.
        price_minor: Prices as shown; where absent, the catalogue's price stands in.

    Shapes: (n, len(ITEM_COLUMNS)).
    Guarantees: finite for any input; a missing number is 0 with its flag 0.
    """
    price = np.zeros(len(items))
    sales = np.zeros(len(items))
    columns = np.zeros((len(items), len(ITEM_COLUMNS)), dtype=np.float64)
    for row, item in enumerate(items):
        shown = None if price_minor is None else price_minor[row]
        if item is None:
            price[row] = 0 if shown is None else shown
            continue
        price[row] = item.price_minor if shown is None else shown
        sales[row] = item.sales_28d
        rating = _number(item, "rating")
        columns[row, 2:] = (
            rating or 0.0,
            _number(item, "promotion") or 0.0,
            1.0,
            rating is not None,
            item.image_vec is not None,
            item.text_vec is not None,
        )
    columns[:, 0] = np.log1p(np.maximum(price, 0) / 100)
    columns[:, 1] = np.log1p(np.maximum(sales, 0))
    return columns.astype(np.float16)


def context_f16(
    *,
    event_ts: int,
    page: int = 1,
    total_hits: int | None = None,
    age_band: str | None = None,
    gender: str | None = None,
) -> NDArray[np.float16]:
    """Return the columns of `CONTEXT_COLUMNS`; an age band or gender outside the lists counts as unknown.

    Shapes: (len(CONTEXT_COLUMNS),).
    """
    angle = 2 * np.pi * (event_ts % (24 * _HOUR_MS)) / (24 * _HOUR_MS)
    columns = np.zeros(len(CONTEXT_COLUMNS), dtype=np.float64)
    columns[:5] = (
        np.sin(angle),
        np.cos(angle),
        np.log1p(max(page, 0)),
        np.log1p(max(total_hits or 0, 0)) / 10,
        total_hits is not None,
    )
    band = _FINER_BANDS.get(age_band or "", age_band)
    age = AGE_BANDS.index(band) if band in AGE_BANDS else len(AGE_BANDS)
    sex = GENDERS.index(gender) if gender in GENDERS else len(GENDERS)
    columns[5 + age] = 1
    columns[5 + len(AGE_BANDS) + 1 + sex] = 1
    return columns.astype(np.float16)
