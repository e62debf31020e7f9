"""Loader of the hotel-search log of trivago (RecSys Challenge 2019).

Terms: the log was given out for the challenge, for research only. It is never shipped with this project; the loader
takes the path of any file in the format of the log.

Mapping (ADR 0003): the visit (`session_id`) is the client and the key. Event time is timestamp + step milliseconds. A
`clickout item` row is a list and a choice: an impression one millisecond before it, a click and a purchase of the
chosen hotel, with explicit query ids. `interaction item ...` rows are clicks without a query id, which the join links
to the newest open list with the hotel, or accounts for as orphans. Other rows say nothing about an item of a list.

Impressions carry features as served, built by the ranking service's own builder from earlier rows only: the visit's
item interactions are its history, the lists of its click-outs are its clicked pages, and a hotel's earlier click-outs
are its sales. The log knows only the displayed
order, which stands in for the incoming order. A hotel has no text, image, brand or rating; its city is its category.
"""

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import polars as pl
from msgspec import structs

from serving.ranking.features import FeatureBuilder, logged
from serving.schemas import Candidate, QueryText, RankRequest
from stream.errors import ConfigError
from stream.operations.replay import Replayed
from stream.replicas.catalogue import Catalogue
from stream.replicas.profiles import DEFAULT_CAPACITY, MAX_BEHAVIOURS, Profiles
from stream.schemas import topics
from stream.schemas.events import (
    MAX_PAGE_ITEMS,
    MAX_PAGES,
    Behaviour,
    Click,
    ClickedPage,
    Conversion,
    Features,
    Impression,
    Item,
    OrderLine,
    Profile,
    Query,
    ShownItems,
    encode,
)
from stream.schemas.identity import event_id
from trainer.features import N_MAX

SOURCE = "trivago"
# The log names no currency; the challenge's prices are read as euros.
CURRENCY = "EUR"
CLICK_OUT = "clickout item"
INTERACTION = "interaction item"
COLUMNS = {
    "user_id": pl.String,
    "session_id": pl.String,
    "timestamp": pl.Int64,
    "step": pl.Int64,
    "action_type": pl.String,
    "reference": pl.String,
    "platform": pl.String,
    "city": pl.String,
    "device": pl.String,
    "current_filters": pl.String,
    "impressions": pl.String,
    "prices": pl.String,
}


def load(path: Path) -> Iterator[Replayed]:
    """Yield the events of the log in `path` in the order of time.

    Args:
        path: A parquet file with the columns of the challenge's log.

    Raises:
        ConfigError: If the file is missing, lacks a column, or has a list that cannot be read.
    """
    past = _Past()
    events = [event for row in _rows(_read(path)) for event in _events(row, past)]
    # Stable: within one millisecond the rows' own order stays.
    events.sort(key=lambda event: event.event_ts)
    yield from events


def visit_starts(path: Path) -> dict[str, int]:
    """Return the time of the first row of each visit, rows without an item included.

    Raises:
        ConfigError: If the file is missing or lacks a column.
    """
    firsts = _read(path).group_by("session_id").agg(pl.col("timestamp").min() * 1_000)
    return dict(firsts.iter_rows())


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ConfigError(f"trivago log '{path}' does not exist")
    log = pl.read_parquet(path)
    missing = [name for name in COLUMNS if name not in log.columns]
    if missing:
        raise ConfigError(f"trivago log '{path}': columns {missing} are missing")
    return log.select([pl.col(name).cast(kind) for name, kind in COLUMNS.items()])


def _rows(log: pl.DataFrame) -> Iterator["_Row"]:
    is_item = pl.col("action_type").str.starts_with(INTERACTION) | (pl.col("action_type") == CLICK_OUT)
    ordered = log.filter(is_item & pl.col("reference").is_not_null()).sort("timestamp", "session_id", "step")
    for values in ordered.iter_rows(named=True):
        yield _Row(values)


class _Row:
    """One row with what its events share."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values
        self.timestamp, self.step = int(self.text("timestamp")), int(self.text("step"))
        self.event_ts = self.timestamp * 1_000 + self.step
        self.visit = self.text("session_id")
        self.query_id = f"{self.visit}-{self.timestamp}-{self.step}"

    def text(self, name: str) -> str:
        value = self._values[name]
        return "" if value is None else str(value)

    def listed(self, name: str) -> list[str]:
        return self.text(name).split("|")

    def page(self) -> ClickedPage:
        """Return the list of a click-out."""
        shown = self.listed("impressions")[:MAX_PAGE_ITEMS]
        return ClickedPage(query_id=self.query_id, impression_ts=self.event_ts - 1, item_id=shown)

    def id_of(self, kind: str, event_ts: int) -> str:
        return event_id(event_ts, SOURCE, kind, self.visit, self.timestamp, self.step)


class _Past:
    """The catalogue and the profiles as a ranking service would know them: from the rows read so far."""

    def __init__(self) -> None:
        self._catalogue = Catalogue()
        self._profiles = Profiles()
        self._known: OrderedDict[str, Profile] = OrderedDict()
        self._builder = FeatureBuilder(self._catalogue, self._profiles, num_scored=N_MAX, query_hash_key=b"")

    def features(self, row: _Row, hotels: list[str], prices: list[int]) -> Features:
        """Return the features of a list as served: nothing of its own row or a later one is in them."""
        city = row.text("city") or None
        request = RankRequest(
            client_id=row.visit,
            query_id=row.query_id,
            query=QueryText(category=city),
            currency=CURRENCY,
            candidates=[
                Candidate(item_id=hotel, price_minor=price) for hotel, price in zip(hotels, prices, strict=True)
            ],
        )
        for hotel, price in zip(hotels, prices, strict=True):
            self._show(row, hotel, price)
        features = self._builder.build(request, row.query_id, row.event_ts - 1, prices, types=[])
        return logged(features, list(range(len(hotels))))

    def touch(self, row: _Row, *actions: str) -> None:
        """Add the item of a row to the history of its visit; a purchase counts as a sale, and its list as a page."""
        hotel, is_bought = row.text("reference"), "purchase" in actions
        known = self._known.pop(row.visit, Profile(client_id=row.visit, behaviours=[], updated_ts=0))
        behaviours = known.behaviours + [
            Behaviour(
                event_id=row.id_of(action, row.event_ts),
                item_id=hotel,
                action=action,
                event_ts=row.event_ts,
                category=row.text("city") or None,
            )
            for action in actions
        ]
        behaviours.sort(key=lambda behaviour: (behaviour.event_ts, behaviour.event_id), reverse=True)
        known = Profile(
            client_id=row.visit,
            behaviours=behaviours[:MAX_BEHAVIOURS],
            pages=([row.page(), *known.pages] if is_bought else known.pages)[:MAX_PAGES],
            updated_ts=row.event_ts,
        )
        self._known[row.visit] = known
        if len(self._known) > DEFAULT_CAPACITY:
            self._known.popitem(last=False)
        self._profiles.put(known)
        if is_bought:
            item = self._catalogue[hotel]
            self._catalogue.put(structs.replace(item, sales_28d=item.sales_28d + 1))

    def _show(self, row: _Row, hotel: str, price_minor: int) -> None:
        item = self._catalogue.get(hotel)
        if item is None:
            city = row.text("city")
            item = Item(
                item_id=hotel,
                title=hotel,
                category_ids=[city] if city else [],
                price_minor=price_minor,
                currency=CURRENCY,
                updated_ts=row.event_ts,
            )
            self._catalogue.put(item)


def _events(row: _Row, past: _Past) -> Iterator[Replayed]:
    if row.text("action_type") == CLICK_OUT:
        yield _record(topics.IMPRESSIONS, row, _impression(row, past))
        yield _record(topics.CLICKS, row, _click(row, query_id=row.query_id))
        yield _record(topics.CONVERSIONS, row, _purchase(row))
        past.touch(row, "click", "purchase")
    else:
        yield _record(topics.CLICKS, row, _click(row, query_id=None))
        past.touch(row, "click")


def _record(topic: str, row: _Row, event: Impression | Click | Conversion) -> Replayed:
    return Replayed(event_ts=event.event_ts, topic=topic, key=row.visit.encode(), value=encode(event))


def _impression(row: _Row, past: _Past) -> Impression:
    hotels, prices = row.listed("impressions"), row.listed("prices")
    if len(hotels) != len(prices) or row.text("reference") not in hotels:
        raise ConfigError(
            f"trivago log: session {row.visit} step {row.step}: {len(hotels)} hotels, {len(prices)} prices,"
            f" click-out on '{row.text('reference')}': expected equal lengths and the chosen hotel in the list"
        )
    city, filters = row.text("city"), row.text("current_filters")
    price_minor = [_minor(price) for price in prices]
    return Impression(
        event_id=row.id_of("impression", row.event_ts - 1),
        event_ts=row.event_ts - 1,
        client_id=row.visit,
        session_id=row.visit,
        user_id=row.text("user_id") or None,
        source=SOURCE,
        query_id=row.query_id,
        query=Query(hash=sha256(f"{city}\0{filters}".encode()).hexdigest()[:32], category=city or None),
        currency=CURRENCY,
        items=ShownItems(
            object_id=hotels,
            rank_in=list(range(1, len(hotels) + 1)),
            price_minor=price_minor,
        ),
        features=past.features(row, hotels, price_minor),
        attributes={"platform": row.text("platform"), "device": row.text("device")},
    )


def _click(row: _Row, *, query_id: str | None) -> Click:
    position = row.listed("impressions").index(row.text("reference")) + 1 if query_id else None
    return Click(
        event_id=row.id_of("click", row.event_ts),
        event_ts=row.event_ts,
        client_id=row.visit,
        session_id=row.visit,
        source=SOURCE,
        action_name="click",
        query_id=query_id,
        object_id=row.text("reference"),
        position=position,
    )


def _purchase(row: _Row) -> Conversion:
    price_minor = _minor(row.listed("prices")[row.listed("impressions").index(row.text("reference"))])
    return Conversion(
        event_id=row.id_of("purchase", row.event_ts),
        event_ts=row.event_ts,
        client_id=row.visit,
        session_id=row.visit,
        source=SOURCE,
        action_name="purchase",
        transaction_id=row.query_id,
        currency=CURRENCY,
        value_minor=price_minor,
        items=[
            OrderLine(
                line_id="1",
                object_id=row.text("reference"),
                quantity=1,
                amount_minor=price_minor,
                query_id=row.query_id,
            )
        ],
    )


def _minor(price: str) -> int:
    return round(100 * float(price))
