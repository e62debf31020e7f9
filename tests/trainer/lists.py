"""Seeded lists, sessions and batches for the tests of features, models and losses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES, History, Item
from stream.schemas.session import ACTION_CODES, Session
from trainer.features import (
    FEATURE_SCHEMA,
    Batch,
    Examples,
    Lookup,
    SessionExample,
    collate,
    context_f16,
    example_from_request,
    example_from_session,
    item_f16,
)
from trainer.features.hash_index import Hashes, hash_pairs

WIDTH = 16
NOW_TS = 1_790_000_000_000


@dataclass
class MemoryCatalogue:
    items: dict[str, Item] = field(default_factory=dict)

    def get(self, item_id: str) -> Item | None:
        return self.items.get(item_id)

    def image(self, item_id: str) -> NDArray[np.float32] | None:
        return self._vector(item_id, "image_vec")

    def text(self, item_id: str) -> NDArray[np.float32] | None:
        return self._vector(item_id, "text_vec")

    def _vector(self, item_id: str, name: str) -> NDArray[np.float32] | None:
        item = self.items.get(item_id)
        raw = None if item is None else (item.image_vec if name == "image_vec" else item.text_vec)
        return None if raw is None else np.frombuffer(raw, "<f2").astype(np.float32)


def hashes(keys: Iterable[str]) -> Hashes:
    return Hashes.of(hash_pairs(keys))


class HashLookup:
    """Slots by a fixed rule: the remainder of the hash."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def lookup(self, ids: Hashes) -> NDArray[np.int64]:
        slots = 2 + (ids.high % np.uint64(self.rows - 2)).astype(np.int64)
        return np.where(ids.is_none, 0, slots)


@dataclass
class HashLookups:
    item: Lookup
    shop: Lookup
    brand: Lookup
    category: Lookup

    def slots(self, entity: NDArray[np.uint64]) -> NDArray[np.int64]:
        tables = enumerate((self.item, self.shop, self.brand, self.category))
        return np.stack([table.lookup(Hashes.of(entity[:, kind])) for kind, table in tables], axis=1)


def id_maps(rows: int = 200) -> HashLookups:
    table = HashLookup(rows)
    return HashLookups(table, table, table, table)


def catalogue(num_items: int = 120, seed: int = 0, p_missing: float = 0.2) -> MemoryCatalogue:
    rng = np.random.default_rng(seed)
    items = {}
    for number in range(num_items):
        image, text = (
            None if rng.random() < p_missing else rng.normal(size=WIDTH).astype("<f2").tobytes() for _ in range(2)
        )
        items[f"i{number}"] = Item(
            item_id=f"i{number}",
            title=f"item {number}",
            brand_id=f"b{number % 7}" if number % 5 else None,
            shop_id=f"s{number % 11}",
            category_ids=["root", f"c{number % 3}"],
            price_minor=int(rng.integers(100, 20_000)),
            currency="EUR",
            sales_28d=int(rng.integers(0, 500)),
            image_vec=image,
            text_vec=text,
            updated_ts=NOW_TS,
            attributes={"rating": float(rng.uniform(1, 5)), "promotion": bool(number % 2)} if number % 3 else None,
        )
    return MemoryCatalogue(items)


@dataclass(frozen=True)
class ServedList:
    """A request as served: what both the example of the request and the session are built from."""

    query_id: str
    item_ids: list[str]
    prices: list[int]
    items: NDArray[np.float16]
    context: NDArray[np.float16]
    history: History
    category: str | None
    known: MemoryCatalogue
    types: list[str] = field(default_factory=list)

    def example(self) -> SessionExample:
        return example_from_request(
            query_id=self.query_id,
            item_ids=self.item_ids,
            items=self.items,
            context=self.context,
            history=self.history,
            category=self.category,
            catalogue=self.known,
            item_types=self.types,
        )

    def session(
        self,
        shown: Sequence[int],
        *,
        orders: Sequence[int] = (),
        clicks: Sequence[int] = (),
        revision: int = 0,
        reason: str = "close",
        changed: Sequence[int] = (),
        gross_minor: int = 0,
    ) -> Session:
        """The session after its items were shown in the order `shown`; labels name rows of the incoming order."""
        n = len(shown)
        label = {row: position for position, row in enumerate(shown)}

        def counts(rows: Sequence[int]) -> NDArray[np.uint16]:
            column = np.zeros(n, dtype="<u2")
            column[[label[row] for row in rows]] = 1
            return column

        return Session(
            query_id=self.query_id,
            client_id="client",
            session_id="visit",
            user_id=None,
            revision=revision,
            reason=reason,
            label_key=b"\0" * 8,
            impression_ts=NOW_TS,
            close_ts=NOW_TS,
            watermark_ts=NOW_TS,
            src=(0, 0),
            query_hash="q",
            query_category=self.category,
            currency="EUR",
            assignment=[],
            lineage=None,
            version=None,
            fallback=None,
            triggered=None,
            n=n,
            item_id=[self.item_ids[row] for row in shown],
            item_type=[self.types[row] for row in shown] if self.types else [],
            rank_in=(np.array(shown) + 1).astype("<u2").tobytes(),
            score=b"",
            price_minor=np.array([self.prices[row] for row in shown], "<i8").tobytes(),
            propensity=b"",
            feature_schema=bytes.fromhex(FEATURE_SCHEMA),
            item_f16=self.items[list(shown)].astype("<f2").tobytes(),
            context_f16=self.context.astype("<f2").tobytes(),
            hist_item=list(self.history.object_id),
            hist_category=list(self.history.category),
            hist_action=np.array([ACTION_CODES[action] for action in self.history.action], np.uint8).tobytes(),
            hist_age_s=np.array(self.history.age_s, "<u4").tobytes(),
            hist_pages=[list(page) for page in self.history.pages],
            clicks=counts(clicks).tobytes(),
            carts=counts(()).tobytes(),
            orders=counts(orders).tobytes(),
            units=counts(orders).astype("<u4").tobytes(),
            click_delay_ms=np.full(n, -1, "<i8").tobytes(),
            order_delay_ms=np.full(n, -1, "<i8").tobytes(),
            gross_minor=(counts(orders).astype("<i8") * gross_minor).astype("<i8").tobytes(),
            refund_minor=np.zeros(n, "<i8").tobytes(),
            changed=np.array([label[row] for row in changed], "<u2").tobytes(),
            events=[],
            lines=[],
        )


def pages(seed: int, known: MemoryCatalogue) -> list[list[str]]:
    """Seeded clicked pages, 0 to 5 of them, some of which are short."""
    rng = np.random.default_rng([10, seed])
    sizes = rng.integers(1, MAX_PAGE_ITEMS + 1, size=rng.integers(0, MAX_PAGES + 1)).tolist()
    return [[str(item_id) for item_id in rng.choice(list(known.items), size=size, replace=False)] for size in sizes]


def served(seed: int, known: MemoryCatalogue, *, n: int | None = None, depth: int | None = None) -> ServedList:
    """A seeded request; `depth` behaviours, and `n` candidates, drawn when not given."""
    rng = np.random.default_rng([7, seed])
    size = int(rng.integers(5, 31)) if n is None else n
    behaviours = int(rng.integers(0, 21)) if depth is None else depth
    item_ids = [str(item_id) for item_id in rng.choice(list(known.items), size=size, replace=False)]
    touched = [str(item_id) for item_id in rng.choice(list(known.items), size=behaviours)]
    prices = [known.items[item_id].price_minor for item_id in item_ids]
    return ServedList(
        query_id=f"q{seed}",
        item_ids=item_ids,
        prices=prices,
        items=item_f16([known.items[item_id] for item_id in item_ids], prices),
        context=context_f16(
            event_ts=NOW_TS + seed * 3_600_000,
            page=1,
            total_hits=100 + seed,
            age_band="25-34",
            tokens=rng.integers(1, 2_048, size=seed % 4).tolist(),
            query_vector=rng.normal(size=WIDTH).tolist() if seed % 3 else [],
        ),
        history=History(
            object_id=touched,
            action=[str(action) for action in rng.choice(["click", "add_to_cart", "purchase"], size=behaviours)],
            age_s=sorted(rng.integers(0, 500_000, size=behaviours).tolist()),
            category=[known.items[item_id].category_ids[-1] for item_id in touched],
            pages=pages(seed, known) if behaviours else [],
        ),
        category=f"c{seed % 3}" if seed % 4 else f"root > c{seed % 3}",
        known=known,
        types=["product" if number % 3 else "sponsored" for number in range(size)] if seed % 2 else [],
    )


def labelled(seed: int, known: MemoryCatalogue, *, n: int | None = None, depth: int | None = None) -> SessionExample:
    """A seeded session's example: one item bought and two clicked, shown in a shuffled order."""
    request = served(seed, known, n=n, depth=depth)
    rng = np.random.default_rng([8, seed])
    shown = rng.permutation(len(request.item_ids)).tolist()
    clicks = rng.choice(len(shown), size=min(3, len(shown)), replace=False).tolist()
    session = request.session(shown, orders=clicks[:1], clicks=clicks, gross_minor=1_999)
    return example_from_session(session, known)


def batch_of(examples: Sequence[SessionExample], *, rows: int = 200, history: int = 10) -> Batch:
    return collate(Examples.of(examples), id_maps(rows), width=WIDTH, history=history)


def item(item_id: str, price_minor: int = 1_000, category: str = "c", **attributes: object) -> Item:
    return Item(
        item_id=item_id,
        title=item_id,
        category_ids=["root", category],
        price_minor=price_minor,
        currency="EUR",
        updated_ts=NOW_TS,
        attributes=attributes or None,
    )


def request(
    items: Sequence[Item],
    rank_in: Sequence[int] | None = None,
    category: str | None = None,
    prices: Sequence[int] | None = None,
) -> SessionExample:
    return example_from_request(
        query_id="q",
        item_ids=[one.item_id for one in items],
        items=item_f16(items, prices),
        context=context_f16(event_ts=NOW_TS),
        history=None,
        category=category,
        catalogue=MemoryCatalogue({one.item_id: one for one in items}),
        rank_in=rank_in,
    )
