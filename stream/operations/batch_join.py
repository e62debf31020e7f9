"""The join as a batch oracle: sessions computed from tables of events by joins and group-bys.

Nothing of the streaming core is used: no watermark, state or order of arrival.

Source: docs/stream.md.
"""

from dataclasses import dataclass

import polars as pl

from stream.join.settings import JoinSettings
from stream.operations.event_tables import EventTables
from stream.schemas.events import ALL_LINES

EVIDENCE = {"query_id": pl.String, "kind": pl.String, "identity": pl.String, "action": pl.String, "item": pl.Int64,
            "event_ts": pl.Int64}  # fmt: skip
LABELS = {"query_id": pl.String, "item": pl.Int64, "clicks": pl.Int64, "carts": pl.Int64, "orders": pl.Int64,
          "units": pl.Int64, "gross": pl.Int64, "refund": pl.Int64, "currency": pl.String}  # fmt: skip
_UNKNOWN_CURRENCY = "XXX"
_RECORD_LINE = ["partition", "offset", "line_id"]


@dataclass(frozen=True, slots=True)
class JoinedTables:
    """Sessions as tables.

    Attributes:
        evidence: The clicks and order lines that joined a list, with the columns `EVIDENCE`.
        labels: Counts and money by query and item, with the columns `LABELS`.
    """

    evidence: pl.DataFrame
    labels: pl.DataFrame


def join(tables: EventTables, settings: JoinSettings) -> JoinedTables:
    """Return the sessions of the events with the windows of `settings`."""
    window_ms, attribution_ms = settings.click_window_s * 1_000, settings.attribution_s * 1_000
    shown = tables.shown.sort("item").select(
        "query_id", "client_id", "item_id", "item", "place", "imp_ts", "item_ts", close_ts=pl.col("last_ts") + window_ms
    )
    touches = _linked_clicks(tables.clicks, shown, settings)
    listed = shown.unique(["query_id", "item_id"], keep="first", maintain_order=True)
    purchases = tables.lines.filter(action="purchase")
    named = purchases.join(listed, on=["query_id", "client_id", "item_id"]).filter(_is_shown(settings))
    early = pl.col("event_ts") < pl.col("close_ts")
    labelled = pl.concat([touches.filter(early).select("query_id"), named.filter(early).select("query_id")]).unique()
    in_time = early | (
        pl.col("query_id").is_in(labelled["query_id"].implode())
        & (pl.col("event_ts") <= pl.col("imp_ts") + attribution_ms)
    )
    touches = touches.filter(in_time)
    named = named.filter(in_time)
    unnamed = purchases.join(named, on=_RECORD_LINE, how="anti")
    deals = pl.concat([named, _by_last_click(unnamed, touches, settings, named.columns)])
    # Of copies, the earliest that joins a list decides.
    deals = deals.sort("event_ts", "event_id", "offset").unique(
        ["client_id", "transaction_id", "line_id"], keep="first", maintain_order=True
    )
    deals = _placed(deals, touches, listed)
    reversals = _reversals(tables.lines, deals, settings)
    everything = pl.concat([deals.select(reversals.columns), reversals])
    identity = pl.concat_str(["transaction_id", "line_id", "refund_id"], separator="\0")
    evidence = pl.concat(
        [
            touches.select("query_id", pl.lit("click").alias("kind"), pl.col("event_id").alias("identity"), "action",
                           "item", "event_ts"),
            everything.select("query_id", pl.lit("line").alias("kind"), identity.alias("identity"), "action", "item",
                              "event_ts"),
        ]
    )  # fmt: skip
    return JoinedTables(evidence, _labels(touches, everything, _currencies(tables.shown, everything)))


def _currencies(shown: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
    """Return the currency of each query: that of its list or, if unknown, of its first line in a known currency."""
    first = lines.filter(pl.col("currency") != _UNKNOWN_CURRENCY)
    first = first.sort("event_ts", "transaction_id", "line_id", "refund_id").unique(
        "query_id", keep="first", maintain_order=True
    )
    named = shown.select("query_id", list_currency="currency").unique()
    both = named.join(first.select("query_id", line_currency="currency"), on="query_id", how="left")
    is_unknown = (pl.col("list_currency") == _UNKNOWN_CURRENCY) & pl.col("line_currency").is_not_null()
    return both.select("query_id", query_currency=pl.when(is_unknown).then("line_currency").otherwise("list_currency"))


def _linked_clicks(clicks: pl.DataFrame, shown: pl.DataFrame, settings: JoinSettings) -> pl.DataFrame:
    named = clicks.filter(pl.col("query_id").is_not_null()).join(shown, on=["query_id", "client_id", "item_id"])
    named = _nearest(named.filter(_is_shown(settings)), "query_id")
    bare = clicks.filter(pl.col("query_id").is_null()).drop("query_id").join(shown, on=["client_id", "item_id"])
    bare = _nearest(bare, "query_id")
    ahead_ms = pl.col("imp_ts") - pl.col("event_ts")
    bare = bare.filter(
        (pl.col("item_ts") - pl.col("event_ts") <= settings.clock_tolerance_ms)
        & (pl.col("event_ts") < pl.col("close_ts"))
        & pl.lit(settings.infer_links)
    )
    # The newest list up to the click, or else the first one after it.
    bare = bare.sort(ahead_ms > 0, ahead_ms.abs(), "query_id", descending=[False, False, True])
    bare = bare.unique(["partition", "offset"], keep="first", maintain_order=True)
    # A copy with another time joins the list of the first one.
    bare = bare.sort("event_ts", "offset").unique(
        ["client_id", "item_id", "event_id"], keep="first", maintain_order=True
    )
    both = pl.concat([named, bare.select(named.columns)]).sort("event_ts", "offset")
    return both.unique(["query_id", "event_id"], keep="first", maintain_order=True)


def _is_shown(settings: JoinSettings) -> pl.Expr:
    """Return whether an event sees the product: it waits for its list, and does not see later ones."""
    return pl.col("item_ts") <= pl.col("event_ts") + settings.wait_s * 1_000


def _nearest(clicks: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Return each click once, on that of equal products that is nearest to its position, or else on the first."""
    away = (pl.col("place") + 1 - pl.col("position")).abs().fill_null(0)
    clicks = clicks.with_columns(away=away).sort("away", "item")
    return clicks.unique(["partition", "offset", *by], keep="first", maintain_order=True).drop("away")


def _placed(deals: pl.DataFrame, touches: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """Return purchase lines on the place of the last click on their product in their list, or else on the first."""
    clicked = touches.select("query_id", "item_id", click_item="item", click_ts="event_ts", click_id="event_id")
    line = ["client_id", "transaction_id", "line_id"]
    last = deals.select(*line, "query_id", "item_id", "event_ts").join(clicked, on=["query_id", "item_id"])
    last = last.filter(pl.col("click_ts") <= pl.col("event_ts")).sort("click_ts", "click_id", descending=True)
    last = last.unique(line, keep="first", maintain_order=True).select(*line, "click_item")
    first = listed.select("query_id", "item_id", first_item="item")
    placed = deals.join(first, on=["query_id", "item_id"]).join(last, on=line, how="left")
    return placed.with_columns(item=pl.coalesce("click_item", "first_item")).select(deals.columns)


def _by_last_click(
    unnamed: pl.DataFrame, touches: pl.DataFrame, settings: JoinSettings, columns: list[str]
) -> pl.DataFrame:
    clicked = touches.select(
        "client_id",
        "item_id",
        "query_id",
        "item",
        "place",
        "imp_ts",
        "item_ts",
        "close_ts",
        click_ts="event_ts",
        click_id="event_id",
    )
    found = unnamed.drop("query_id").join(clicked, on=["client_id", "item_id"])
    ahead_ms = pl.col("click_ts") - pl.col("event_ts")
    found = found.filter(
        (ahead_ms <= settings.clock_tolerance_ms)
        & (pl.col("event_ts") <= pl.col("imp_ts") + settings.attribution_s * 1_000)
    )
    # Up to the order the last click, or else the first one after it.
    newest = found.filter(ahead_ms <= 0).sort("click_ts", "click_id", descending=True)
    found = pl.concat([newest, found.filter(ahead_ms > 0).sort("click_ts", "click_id")])
    return found.unique(_RECORD_LINE, keep="first", maintain_order=True).select(columns)


def _reversals(lines: pl.DataFrame, deals: pl.DataFrame, settings: JoinSettings) -> pl.DataFrame:
    bought = deals.select(
        "client_id", "transaction_id", "line_id", "item", "imp_ts", linked="query_id", bought_ts="event_ts",
        bought_quantity="quantity", bought_amount="amount", bought_currency="currency",
    )  # fmt: skip
    reversals = lines.filter(pl.col("action") != "purchase")
    whole = reversals.filter(line_id=ALL_LINES).drop("line_id").join(bought, on=["client_id", "transaction_id"])
    whole = whole.with_columns(quantity="bought_quantity", amount="bought_amount", currency="bought_currency")
    single = reversals.filter(pl.col("line_id") != ALL_LINES)
    single = single.join(bought, on=["client_id", "transaction_id", "line_id"])
    reversed_ = pl.concat([single, whole.select(single.columns)])
    reversed_ = reversed_.filter(
        (pl.col("event_ts") <= pl.col("bought_ts") + settings.refund_s * 1_000)
        & (pl.col("bought_ts") <= pl.col("event_ts") + settings.wait_s * 1_000)
    )
    reversed_ = reversed_.sort("event_ts", "event_id", "offset").unique(
        ["client_id", "transaction_id", "line_id", "refund_id"], keep="first", maintain_order=True
    )
    return reversed_.with_columns(query_id=pl.col("linked")).select(
        "query_id", "item", "action", "event_ts", "transaction_id", "line_id", "refund_id", "quantity", "amount",
        "currency",
    )  # fmt: skip


def _labels(touches: pl.DataFrame, lines: pl.DataFrame, currencies: pl.DataFrame) -> pl.DataFrame:
    by = ["query_id", "item"]
    bought = pl.col("action") == "purchase"
    is_counted = (pl.col("currency") == pl.col("query_currency")) | (pl.col("currency") == _UNKNOWN_CURRENCY)
    money = pl.when(is_counted).then(pl.col("amount")).otherwise(0)
    lines = lines.join(currencies, on="query_id")
    clicks = touches.group_by(by).agg(
        clicks=(pl.col("action") == "click").sum().cast(pl.Int64),
        carts=(pl.col("action") != "click").sum().cast(pl.Int64),
    )
    per_line = lines.group_by(*by, "transaction_id", "line_id").agg(
        units=pl.col("quantity").filter(bought).sum(),
        gross=money.filter(bought).sum(),
        refund=money.filter(~bought).sum(),
        buys=bought.any(),
        is_own=(bought & is_counted).any(),
    )
    # A line is never refunded by more than it was bought for.
    kept = pl.when("is_own").then(pl.min_horizontal("refund", "gross")).otherwise("refund")
    deals = per_line.group_by(by).agg(
        orders=pl.col("transaction_id").filter("buys").n_unique().cast(pl.Int64),
        units=pl.col("units").sum(),
        gross=pl.col("gross").sum(),
        refund=kept.sum(),
    )
    both = clicks.join(deals, on=by, how="full", coalesce=True).fill_null(0)
    return both.join(currencies.rename({"query_currency": "currency"}), on="query_id").select(*LABELS)
