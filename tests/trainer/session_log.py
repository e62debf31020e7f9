"""A generated log of `sessions` records with learnable labels, for tests of the trainer."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.replicas.catalogue import Catalogue
from stream.schemas.events import Item
from stream.schemas.session import Progress, Session, decode, encode
from trainer.features import MAX_TOKENS, SCHEMAS

START_TS = 1_700_000_000_000
_VECTOR = 16


@dataclass(frozen=True)
class LogRecord:
    partition: int
    offset: int
    value: bytes


def make_items(count: int = 40) -> list[Item]:
    rng = np.random.default_rng(7)
    return [
        Item(
            item_id=f"i{number}",
            title=f"item {number}",
            brand_id=f"b{number % 5}",
            shop_id=f"s{number % 3}",
            category_ids=["root", f"c{number % 4}"],
            price_minor=100 + 10 * number,
            currency="EUR",
            image_vec=rng.normal(size=_VECTOR).astype("<f2").tobytes(),
            text_vec=rng.normal(size=_VECTOR).astype("<f2").tobytes(),
            image_model="m",
            text_model="m",
            updated_ts=START_TS - 1_000_000,
        )
        for number in range(count)
    ]


class ListFeed:
    """Items from a list, as `trainer.feed.items.ItemFeed`."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self.num_rejected = 0

    def advance(self, catalogue: Catalogue, until_ts: int) -> None:
        for item in self._items:
            if item.updated_ts <= until_ts:
                catalogue.put(item)


def make_session(
    number: int,
    rng: np.random.Generator,
    *,
    watermark_ts: int,
    revision: int = 0,
    orders: list[int] | None = None,
    changed: list[int] | None = None,
    schema: int = 2,
) -> Session:
    n = int(rng.integers(3, 9))
    items = rng.choice(40, size=n, replace=False)
    clicks = (items % 4 == 0).astype("<u2")
    orders_column = np.zeros(n, "<u2") if orders is None else np.isin(np.arange(n), orders).astype("<u2")
    return Session(
        query_id=f"q{number}",
        client_id=f"u{number % 17}",
        session_id=None,
        user_id=None,
        revision=revision,
        reason="close" if revision == 0 else "conversion",
        label_key=revision.to_bytes(8, "little"),
        impression_ts=watermark_ts - 900_000,
        close_ts=watermark_ts,
        watermark_ts=watermark_ts,
        src=(0, number),
        query_hash="h",
        query_category=f"c{number % 4}",
        currency="EUR",
        assignment=[],
        lineage=None,
        version=None,
        fallback=None,
        triggered=None,
        n=n,
        item_id=[f"i{item}" for item in items],
        rank_in=np.arange(1, n + 1, dtype="<u2").tobytes(),
        score=b"",
        price_minor=(100 + 10 * items).astype("<i8").tobytes(),
        propensity=b"",
        feature_schema=bytes.fromhex(SCHEMAS[schema].sha256),
        item_f16=rng.uniform(size=(n, len(SCHEMAS[schema].item))).astype("<f2").tobytes(),
        context_f16=_context(number, rng, schema).astype("<f2").tobytes(),
        hist_item=[f"i{item}" for item in items[:2]],
        hist_category=["", ""],
        hist_action=bytes([1, 1]),
        hist_age_s=np.array([60, 3600], "<u4").tobytes(),
        hist_pages=[[f"i{item}" for item in items[1:3]], [f"i{number % 40}"]][: number % 3],
        clicks=clicks.tobytes(),
        carts=np.zeros(n, "<u2").tobytes(),
        orders=orders_column.tobytes(),
        units=orders_column.astype("<u4").tobytes(),
        click_delay_ms=np.full(n, -1, "<i8").tobytes(),
        order_delay_ms=np.full(n, -1, "<i8").tobytes(),
        gross_minor=(orders_column.astype("<i8") * 500).tobytes(),
        refund_minor=np.zeros(n, "<i8").tobytes(),
        changed=np.array(changed or [], "<u2").tobytes(),
        events=[],
        lines=[],
    )


def _context(number: int, rng: np.random.Generator, schema: int) -> NDArray[np.float64]:
    """Return the context of a session; from schema 2 on it ends with tokens and, for some, a vector of the query."""
    context = rng.uniform(size=len(SCHEMAS[1].context))
    if schema == 1:
        return context
    # The other draws of the log are those of schema 1.
    vector = np.random.default_rng(number).normal(size=_VECTOR if number % 2 else 0)
    return np.concatenate([context, np.arange(MAX_TOKENS) * (number % 5), vector])


def make_progress(partition: int, watermark_ts: int, hold: list[str] | None = None) -> Progress:
    return Progress(
        partition=partition,
        watermark_ts=watermark_ts,
        matured_ts=0,
        now_ts=watermark_ts,
        counters={},
        hold=hold or [],
    )


def make_log(num_sessions: int = 240, partitions: int = 3, seed: int = 1, schema: int = 2) -> list[LogRecord]:
    """Sessions, a correction for every third, and progress records; about a second of watermark time each."""
    rng = np.random.default_rng(seed)
    offsets = [0] * partitions
    records: list[LogRecord] = []

    def append(partition: int, record: Session | Progress) -> None:
        records.append(LogRecord(partition, offsets[partition], encode(record)))
        offsets[partition] += 1

    for number in range(num_sessions):
        watermark_ts = START_TS + number * 1_000
        partition = int(rng.integers(partitions))
        state = rng.bit_generator.state
        first = [0] if number % 5 == 0 else None
        append(partition, make_session(number, rng, watermark_ts=watermark_ts, orders=first, schema=schema))
        if number % 3 == 0:
            rng.bit_generator.state = state
            orders = [0, 1] if number % 5 == 0 else [1]
            append(
                partition,
                make_session(
                    number,
                    rng,
                    watermark_ts=watermark_ts + 500,
                    revision=1,
                    orders=orders,
                    changed=[0, 1],
                    schema=schema,
                ),
            )
        if number % 5 == 4:
            for each in range(partitions):
                append(each, make_progress(each, watermark_ts + 600))
    for each in range(partitions):
        append(each, make_progress(each, START_TS + num_sessions * 1_000 + 120_000))
    return records


def without_labels(one: Session) -> Session:
    zero = np.zeros(one.n, "<u2").tobytes()
    return msgspec.structs.replace(one, clicks=zero, carts=zero, orders=zero)


def broken_log() -> list[LogRecord]:
    """`make_log` without a label from 160 s to 200 s of 240 s."""

    def broken(record: LogRecord) -> LogRecord:
        own = decode(record.value)
        if not isinstance(own, Session) or not 160_000 <= own.watermark_ts - START_TS < 200_000:
            return record
        return LogRecord(record.partition, record.offset, encode(without_labels(own)))

    return [broken(record) for record in make_log()]
