"""Events of the logs as tables for the batch oracle: shown items, clicks and order lines, one row each.

Source: docs/stream.md.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from stream.errors import SchemaError
from stream.schemas import decode, topics
from stream.schemas.records import Record

_SHOWN = {"query_id": pl.String, "client_id": pl.String, "imp_ts": pl.Int64, "item_id": pl.String, "item": pl.Int64,
          "price": pl.Int64, "offset": pl.Int64, "partition": pl.Int64, "currency": pl.String, "event_id": pl.String,
          "place": pl.Int64, "part": pl.String}  # fmt: skip
_CLICKS = {"event_id": pl.String, "client_id": pl.String, "query_id": pl.String, "item_id": pl.String,
           "action": pl.String, "event_ts": pl.Int64, "offset": pl.Int64, "partition": pl.Int64,
           "position": pl.Int64}  # fmt: skip
_LINES = {"event_id": pl.String, "client_id": pl.String, "query_id": pl.String, "item_id": pl.String,
          "action": pl.String, "event_ts": pl.Int64, "offset": pl.Int64, "partition": pl.Int64,
          "transaction_id": pl.String, "line_id": pl.String, "refund_id": pl.String, "quantity": pl.Int64,
          "amount": pl.Int64, "currency": pl.String}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EventTables:
    """The events of a log.

    Attributes:
        shown: Items of the lists, each list the union of its parts.
        clicks: Clicks and carts.
        lines: Order lines of purchases and of their reversals.
    """

    shown: pl.DataFrame
    clicks: pl.DataFrame
    lines: pl.DataFrame


def event_tables(
    inputs: Mapping[tuple[str, int, int], Record], left_out: Collection[tuple[str, int, int, str]]
) -> EventTables:
    """Return the events that can be decoded as tables.

    Args:
        inputs: Topic, partition and offset to the record there.
        left_out: Topic, partition, offset and line id of events to leave out; the line id is empty for a whole record.
    """
    shown: list[tuple[object, ...]] = []
    clicks: list[tuple[object, ...]] = []
    lines: list[tuple[object, ...]] = []
    for (topic, partition, offset), record in inputs.items():
        if (topic, partition, offset, "") in left_out:
            continue
        try:
            if topic == topics.IMPRESSIONS:
                i = decode.impression(record.value)
                shown += [
                    (
                        i.query_id,
                        i.client_id,
                        i.event_ts,
                        item_id,
                        at,
                        i.items.price_minor[at],
                        offset,
                        partition,
                        i.currency,
                        i.event_id,
                        i.items.position[at] - 1 if i.items.position else at,
                        i.event_id if i.items.position else "",
                    )
                    for at, item_id in enumerate(i.items.object_id)
                ]
            elif topic == topics.CLICKS:
                c = decode.click(record.value)
                clicks.append(
                    (
                        c.event_id,
                        c.client_id,
                        c.query_id,
                        c.object_id,
                        c.action_name,
                        c.event_ts,
                        offset,
                        partition,
                        c.position,
                    )
                )
            else:
                v = decode.conversion(record.value)
                refund_id = "" if v.action_name == "purchase" else v.refund_id or v.event_id
                lines += [
                    (v.event_id, v.client_id, o.query_id or v.query_id, o.object_id, v.action_name, v.event_ts, offset,
                     partition, v.transaction_id, o.line_id, refund_id, o.quantity, o.amount_minor, v.currency)
                    for o in v.items
                    if (topic, partition, offset, o.line_id) not in left_out
                ]  # fmt: skip
        except SchemaError:
            continue  # it has no outcome yet, or the recount will name it
    frame_shown = pl.DataFrame(shown, schema=_SHOWN, orient="row")
    return EventTables(
        shown=_lists(frame_shown),
        clicks=pl.DataFrame(clicks, schema=_CLICKS, orient="row"),
        lines=pl.DataFrame(lines, schema=_LINES, orient="row"),
    )


def _lists(shown: pl.DataFrame) -> pl.DataFrame:
    """Return the items of each list, the union of its parts: `imp_ts` and currency of the first, `last_ts` of the last.

    `item_ts` is the time of the first part that shows the product.
    """
    first = shown.group_by("query_id", "part").agg(pl.col("offset").min())
    shown = shown.join(first, on=["query_id", "part", "offset"]).sort("imp_ts", "event_id")
    shown = shown.with_columns(
        item_ts=pl.col("imp_ts").min().over("query_id", "item_id"),
        last_ts=pl.col("imp_ts").max().over("query_id"),
        imp_ts=pl.col("imp_ts").min().over("query_id"),
        currency=pl.col("currency").first().over("query_id"),
    )
    shown = shown.unique(["query_id", "place"], keep="first", maintain_order=True)
    return shown.with_columns(item=pl.col("place").rank("dense").over("query_id").cast(pl.Int64) - 1)
