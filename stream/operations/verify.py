"""A batch oracle for the join: sessions recomputed from the logs by tables, and compared with what was emitted.

Nothing of the streaming core is used but the strict decoder: no watermark, state or order of arrival. Links, windows
and labels come out of joins and group-bys in Polars. What the oracle cannot know, because it depends on when a record
arrived, it takes from the side topics: records there are left out of the expectation. Orphans that it could have
placed are counted apart.

Source: docs/stream.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from stream.errors import SchemaError
from stream.join.settings import JoinSettings
from stream.schemas import dead_letter, decode, session, topics
from stream.schemas.events import ALL_LINES
from stream.schemas.outcomes import ORPHAN, OUTCOME_OF_REASON
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session

_MAX_SHOWN = 20
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
_EVIDENCE = ["query_id", "kind", "identity", "action", "item", "event_ts"]
_LABELS = ["query_id", "item", "clicks", "carts", "orders", "units", "gross", "refund", "currency"]
_LABEL_TYPES = {"query_id": pl.String, "currency": pl.String}
_UNKNOWN_CURRENCY = "XXX"
_RECORD_LINE = ["partition", "offset", "line_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of emitted sessions with those of the oracle.

    Attributes:
        expected: Sessions that should have been emitted.
        emitted: Sessions that were, each counted once.
        missing: Expected but not emitted.
        extra: Emitted but not expected.
        differing: Both, with other evidence or labels.
        misplaced_orphans: Pieces of evidence that the oracle would gain by joining what lies in `unjoined` as orphans.
        examples: Query ids of up to 20 differences.
    """

    expected: int
    emitted: int
    missing: int
    extra: int
    differing: int
    misplaced_orphans: int
    examples: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Return whether the emitted sessions are those of the oracle."""
        return self.missing == 0 and self.extra == 0 and self.differing == 0


@dataclass(frozen=True, slots=True)
class _Tables:
    shown: pl.DataFrame
    clicks: pl.DataFrame
    lines: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Joined:
    evidence: pl.DataFrame
    labels: pl.DataFrame


def verify(
    records: Iterable[Record],
    settings: JoinSettings | None = None,
    *,
    from_ts: int = 0,
    to_ts: int | None = None,
) -> Comparison:
    """Compare emitted sessions with those that the oracle computes from the same log.

    Args:
        records: All records of the event topics, `sessions`, `unjoined` and `dead_letters`, in offset order per
            partition; those of other topics are ignored.
        settings: The windows that the join ran with.
        from_ts: Only sessions shown at or after this time are compared.
        to_ts: Only sessions shown before this time are compared; by default those that are closed in every partition.
    """
    settings = settings or JoinSettings()
    inputs: dict[tuple[str, int, int], Record] = {}
    sessions: dict[str, list[Session]] = {}
    reasons: dict[tuple[str, int, int, str], str] = {}
    watermarks: dict[int, int] = {}
    for record in records:
        if record.topic in topics.EVENT_TOPICS:
            inputs[record.topic, record.partition, record.offset] = record
        elif record.topic == topics.SESSIONS:
            content = session.decode(record.value or b"")
            if isinstance(content, Session):
                sessions.setdefault(content.query_id, []).append(content)
            elif isinstance(content, Progress):
                watermarks[content.partition] = max(content.watermark_ts, watermarks.get(content.partition, 0))
        elif record.topic in {topics.UNJOINED, topics.DEAD_LETTERS}:
            found = dead_letter.read(record)
            if found is not None:
                reasons[found.identity] = found.reason
    watermark_ts = min((watermarks.get(where[1], 0) for where in inputs), default=0)
    # An event is compared once nothing about it can wait any more.
    settled_ts = watermark_ts - settings.longest_wait_ms
    closed_ts = watermark_ts - settings.click_window_s * 1_000 - settings.clock_tolerance_ms
    last_ts = closed_ts if to_ts is None else to_ts - 1

    orphans = {where for where, reason in reasons.items() if OUTCOME_OF_REASON[reason] == ORPHAN}
    tables = _tables(inputs, set(reasons))
    expected = _join(tables, settings)
    emitted, seen = _emitted(sessions, settings.click_window_s * 1_000)
    in_range = pl.col("imp_ts").is_between(from_ts, last_ts) & (pl.col("last_ts") <= closed_ts)
    wanted = tables.shown.filter(in_range)["query_id"].unique()
    shown = seen.filter(in_range)["query_id"].unique()
    missing = set(wanted) - set(shown)
    extra = set(shown) - set(wanted)
    both = pl.Series("query_id", sorted(set(wanted) & set(shown)), dtype=pl.String)
    differing = _differences(expected, emitted, both, settled_ts)
    # An oracle that admits the orphans places none of them.
    admitted = _join(_tables(inputs, set(reasons) - orphans), settings) if orphans else expected
    misplaced = max(0, len(admitted.evidence) - len(expected.evidence))
    return Comparison(
        expected=len(wanted),
        emitted=len(shown),
        missing=len(missing),
        extra=len(extra),
        differing=len(differing),
        misplaced_orphans=misplaced,
        examples=tuple(sorted(missing | extra | differing)[:_MAX_SHOWN]),
    )


def _tables(inputs: dict[tuple[str, int, int], Record], left_out: set[tuple[str, int, int, str]]) -> _Tables:
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
    return _Tables(
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


def _join(tables: _Tables, settings: JoinSettings) -> _Joined:
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
    return _Joined(evidence, _labels(touches, everything, _currencies(tables.shown, everything)))


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
    return both.join(currencies.rename({"query_currency": "currency"}), on="query_id").select(_LABELS)


def _emitted(sessions: dict[str, list[Session]], window_ms: int) -> tuple[_Joined, pl.DataFrame]:
    """Return evidence as the union over all revisions, labels as the last record has them, and times of the lists."""
    evidence: list[tuple[object, ...]] = []
    labels: list[tuple[object, ...]] = []
    for query_id, revisions in sessions.items():
        touches = {e.event_id: e for s in revisions for e in s.events if e.topic == topics.CLICKS}
        lines = {(x.transaction_id, x.line_id, x.refund_id): x for s in revisions for x in s.lines}
        evidence += [(query_id, "click", e.event_id, e.action, e.item, e.event_ts) for e in touches.values()]
        evidence += [(query_id, "line", "\0".join(k), x.action, x.item, x.event_ts) for k, x in lines.items()]
        last = revisions[-1]
        columns: list[list[int]] = [
            last.column("clicks").tolist(),
            last.column("carts").tolist(),
            last.column("orders").tolist(),
            last.column("units").tolist(),
            last.column("gross_minor").tolist(),
            last.column("refund_minor").tolist(),
        ]
        labels += [
            (query_id, at, *values, last.currency)
            for at, values in enumerate(zip(*columns, strict=True))
            if any(values)
        ]
    types = [pl.String, pl.String, pl.String, pl.String, pl.Int64, pl.Int64]
    times = [(name, found[-1].impression_ts, found[-1].close_ts - window_ms) for name, found in sessions.items()]
    return (
        _Joined(
            pl.DataFrame(evidence, schema=dict(zip(_EVIDENCE, types, strict=True)), orient="row"),
            pl.DataFrame(labels, schema={n: _LABEL_TYPES.get(n, pl.Int64) for n in _LABELS}, orient="row"),
        ),
        pl.DataFrame(times, schema={"query_id": pl.String, "imp_ts": pl.Int64, "last_ts": pl.Int64}, orient="row"),
    )


def _differences(expected: _Joined, emitted: _Joined, queries: pl.Series, settled_ts: int) -> set[str]:
    """Return the queries whose evidence differs, or whose labels do while all their evidence is settled."""
    inside = pl.col("query_id").is_in(queries.implode())
    ours, theirs = expected.evidence.filter(inside), emitted.evidence.filter(inside)
    settled = pl.col("event_ts") < settled_ts
    differing = _symmetric(ours.filter(settled), theirs.filter(settled))
    unsettled = set(ours.filter(~settled)["query_id"]) | set(theirs.filter(~settled)["query_id"])
    touched = (pl.col("clicks") + pl.col("carts") + pl.col("orders") + pl.col("units") + pl.col("refund")) > 0
    labels = _symmetric(expected.labels.filter(inside & touched), emitted.labels.filter(inside))
    return differing | (labels - unsettled)


def _symmetric(ours: pl.DataFrame, theirs: pl.DataFrame) -> set[str]:
    columns = ours.columns
    return set(ours.join(theirs, on=columns, how="anti", nulls_equal=True)["query_id"]) | set(
        theirs.join(ours, on=columns, how="anti", nulls_equal=True)["query_id"]
    )
