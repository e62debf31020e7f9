"""Feature schemas: columns that are logged with an impression, and columns that the example builder derives.

Only columns of `ITEM_COLUMNS` and `CONTEXT_COLUMNS` and the query vector travel; everything else is a pure function of
them, of `rank_in` and `type` of the items and of the history as served. Both paths, request and session, start from the
float16 values. Impressions are written under the newest schema; sessions are read by the schema they were logged under,
and a version reads the columns of its own.

Source: docs/training.md.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import Item
from stream.schemas.times import DAY_MS

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
MAX_TOKENS: Final = 8
TOKEN_BUCKETS: Final = 2_048
"""Numbers of query tokens, 0 for none included: float16 holds every integer up to this one."""
TOKEN_COLUMNS: Final = tuple(f"token_{number}" for number in range(1, MAX_TOKENS + 1))
CONTEXT_COLUMNS: Final = QUERY_COLUMNS + CLIENT_COLUMNS + TOKEN_COLUMNS

RELATIVE_COLUMNS: Final = tuple(f"{name}_{form}" for name in NUMERIC_COLUMNS for form in ("minmax", "rank", "centred"))
TOUCH_COLUMNS: Final = ("touch_count", "touch_recency", "touch_last", "touch_bought", "category_match")
TYPE_COLUMNS: Final = ("type_sponsored", "type_video", "type_card", "type_other")
"""One of them is 1 unless the item is a product."""
RANK_COLUMNS: Final = ("price_over_previous", "price_over_next")
"""Columns that depend on `rank_in`; a model without rank cuts them off, so they come last."""

NUM_COLUMNS: Final = ITEM_COLUMNS + RELATIVE_COLUMNS + TOUCH_COLUMNS + TYPE_COLUMNS + RANK_COLUMNS
HISTORY_NUM_COLUMNS: Final = ("log_count", "log_age_h")

N_MAX: Final = 30
HISTORY_MAX: Final = 50
PATH_MAX: Final = 4
"""Nodes of the query's category path that are read, the deepest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSchema:
    """One feature schema.

    Attributes:
        number: Its number: 1, 2 and so on.
        item: Columns of `item_f16`.
        context: First columns of `context_f16`.
        numbers: Columns of `cand_num`; those that depend on `rank_in` come last.
        reads_query: Whether models read tokens, vector and category path of the query; the vector, of any width, is the
            rest of `context_f16`.
        others: Scales and limits.
    """

    number: int
    item: tuple[str, ...]
    context: tuple[str, ...]
    numbers: tuple[str, ...]
    reads_query: bool
    others: tuple[tuple[str, object], ...]

    @property
    def sha256(self) -> str:
        """Return the hash of the description, 64 hex digits: the value of `Features.schema`."""
        description = {
            "version": self.number,
            "item": self.item,
            "context": self.context,
            "numbers": self.numbers,
            **dict(self.others),
        }
        return hashlib.sha256(json.dumps(description, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_SCALES: Final = (
    ("history", HISTORY_NUM_COLUMNS),
    ("price", "log1p(price_minor / 100)"),
    ("sales", "log1p(sales_28d)"),
    ("hour", "utc"),
    ("page", "log1p"),
    ("total_hits", "log1p / 10"),
    ("n_max", N_MAX),
)
SCHEMA_1: Final = FeatureSchema(
    number=1,
    item=ITEM_COLUMNS,
    context=QUERY_COLUMNS + CLIENT_COLUMNS,
    numbers=ITEM_COLUMNS + RELATIVE_COLUMNS + TOUCH_COLUMNS + RANK_COLUMNS,
    reads_query=False,
    others=_SCALES,
)
SCHEMA_2: Final = FeatureSchema(
    number=2,
    item=ITEM_COLUMNS,
    context=CONTEXT_COLUMNS,
    numbers=NUM_COLUMNS,
    reads_query=True,
    others=(*_SCALES, ("token_buckets", TOKEN_BUCKETS), ("query_vector", "rest of context"), ("path_max", PATH_MAX)),
)
NEWEST: Final = SCHEMA_2
SCHEMAS: Final[Mapping[int, FeatureSchema]] = {schema.number: schema for schema in (SCHEMA_1, SCHEMA_2)}

DEFAULTS: Final[Mapping[str, float]] = dict.fromkeys(TOKEN_COLUMNS, 0.0)
"""Values of the columns of the newest schema in lists that were logged under an older one."""

_BY_SHA256: Final[Mapping[str, FeatureSchema]] = {schema.sha256: schema for schema in SCHEMAS.values()}
FEATURE_SCHEMA: Final = NEWEST.sha256
"""The schema under which impressions are logged: the value of `Features.schema`."""


def schema_of(sha256: str) -> FeatureSchema:
    """Return the schema with this hash.

    Raises:
        SchemaError: If it is unknown.
    """
    if sha256 not in _BY_SHA256:
        known = ", ".join(f"{schema.number} ({value})" for value, schema in _BY_SHA256.items())
        raise SchemaError("feature_schema", f"feature schema {sha256} is unknown; known: {known}")
    return _BY_SHA256[sha256]


def newest_columns(rows: NDArray[np.float16], logged: Sequence[str], newest: Sequence[str]) -> NDArray[np.float16]:
    """Return logged rows with the columns of the newest schema: those that were not logged have their default.

    Shapes: (n, len(logged)) to (n, len(newest)).
    """
    if tuple(logged) == tuple(newest):
        return rows
    converted = np.empty((len(rows), len(newest)), dtype=rows.dtype)
    for column, name in enumerate(newest):
        converted[:, column] = rows[:, logged.index(name)] if name in logged else DEFAULTS[name]
    return converted


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
    columns[:, 0] = price_column(price)
    columns[:, 1] = np.log1p(np.maximum(sales, 0))
    return columns.astype(np.float16)


def price_column(price_minor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the column `price` of `ITEM_COLUMNS` for prices in minor units, of the same shape."""
    found: NDArray[np.float64] = np.log1p(np.maximum(price_minor, 0) / 100)
    return found


def context_f16(
    *,
    event_ts: int,
    page: int = 1,
    total_hits: int | None = None,
    age_band: str | None = None,
    gender: str | None = None,
    tokens: Sequence[int] = (),
    query_vector: Sequence[float] = (),
) -> NDArray[np.float16]:
    """Return the columns of `CONTEXT_COLUMNS`, then the query vector.

    Args:
        event_ts: Time of the impression.
        page: Page of the results.
        total_hits: Number of the query's results.
        age_band: One of `AGE_BANDS`; another one counts as unknown.
        gender: One of `GENDERS`; another one counts as unknown.
        tokens: Numbers of the query's tokens (`trainer.features.query`), at most `MAX_TOKENS`.
        query_vector: The shop's vector of the query, in the vector space of the items' texts.

    Shapes: (len(CONTEXT_COLUMNS) + len(query_vector),).
    """
    angle = 2 * np.pi * (event_ts % DAY_MS) / DAY_MS
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
    start = len(QUERY_COLUMNS) + len(CLIENT_COLUMNS)
    columns[start : start + len(tokens)] = tokens
    return np.concatenate([columns, np.asarray(query_vector, dtype=np.float64)]).astype(np.float16)
