"""The join of order lines: a line joins the list that it names, or else the client's last click on the item.

A cancellation or refund joins the list that its purchase joined; by its clock the purchase may be up to `wait_s` later.
A line `*` stands for each purchased line of the transaction that joined a list, and takes its quantity and amount. It
waits until all of them have their outcome.

Source: docs/stream.md, Emission of sessions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from stream.join import rows
from stream.join.item_clicks import ItemClicks
from stream.join.labels import MergeResult, OrderLineLabel, joined_offset, line_identity
from stream.join.lists import Lists
from stream.join.outcome_counters import OutcomeCounters
from stream.join.output import MicroBatchOutput
from stream.join.positions import Positions
from stream.join.profiles import Profiles
from stream.join.rows import OrderLineRow, OrderRow, Source
from stream.join.settings import JoinSettings
from stream.join.target import Target
from stream.join.tiers import WarmTier
from stream.join.waiting_events import WaitingEvents
from stream.schemas import outcomes, topics
from stream.schemas.events import ALL_LINES, Behaviour, Conversion, OrderLine
from stream.schemas.session import UnlinkedLine


def line_deadline(conversion: Conversion, settings: JoinSettings) -> int:
    """Return the time at which an order line gets its outcome: after that of each click or purchase it may join."""
    if conversion.action_name != "purchase":
        return conversion.event_ts + 1 + settings.longest_wait_ms
    return conversion.event_ts + 1 + settings.wait_s * 1_000 + settings.clock_tolerance_ms


@dataclass(frozen=True, slots=True)
class _LineEvent:
    """A line of a conversion by its index, with its source and the output for its rejection."""

    conversion: Conversion
    index: int
    source: Source
    output: MicroBatchOutput

    @property
    def line(self) -> OrderLine:
        """Return the line."""
        return self.conversion.items[self.index]


class Orders:
    """The join of purchases, cancellations and refunds, line by line."""

    def __init__(
        self,
        settings: JoinSettings,
        lists: Lists,
        *,
        item_clicks: ItemClicks,
        profiles: Profiles,
        counters: OutcomeCounters,
        positions: Positions,
        waiting: WaitingEvents,
        warm: WarmTier,
    ) -> None:
        self._attribution_ms = settings.attribution_s * 1_000
        self._wait_ms = settings.wait_s * 1_000
        self._refund_ms = settings.refund_s * 1_000
        self._slack_ms = settings.slack_ms
        self._max_list_events = settings.max_list_events
        self._lists = lists
        self._item_clicks = item_clicks
        self._profiles = profiles
        self._counters = counters
        self._positions = positions
        self._waiting = waiting
        self._warm = warm

    def join(
        self, conversion: Conversion, line_index: int, source: Source, output: MicroBatchOutput, *, final: bool
    ) -> bool:
        """Join or reject an order line, or return False if it has to wait; a final line never waits."""
        event = _LineEvent(conversion, line_index, source, output)
        if conversion.action_name != "purchase" and event.line.line_id == ALL_LINES:
            return final and self._join_whole_reversal(event)
        known = self._known_row(event)
        if conversion.action_name != "purchase":
            return self._join_reversal(event, known, final=final)
        if known is not None and not self._sees(event, known):
            if final:
                self._reject(event, *self._absence(conversion, event.line.query_id or conversion.query_id))
            return final
        if known is not None:
            joined = self._join_query(event, known.query_id, known.link, known)
            if known.offset != source.offset:
                if not joined:
                    self._counters[outcomes.DUPLICATE] += 1
                return True
            # After a crash the row may stem from this very record, and its query may not be open again yet.
            if joined:
                return True
        query_id = event.line.query_id or conversion.query_id
        if query_id is not None and self._join_query(event, query_id, "query_id"):
            return True
        if not final:
            return False
        clicked = self._item_clicks.last_query(conversion.client_id, event.line.object_id, conversion.event_ts)
        if clicked is None or not self._join_query(event, clicked, "last_click"):
            self._reject(event, *self._absence(conversion, query_id))
        return True

    def _known_row(self, event: _LineEvent) -> OrderLineRow | None:
        """Return the row of a joined purchase line, unless the line is to be joined again after a crash."""
        row = self._stored_lines(event.conversion).get(event.line.line_id)
        return row if row is not None and self._is_visible(row, event) else None

    def _stored_lines(self, conversion: Conversion) -> dict[str, OrderLineRow]:
        stored = self._warm.get(rows.order_key(conversion.client_id, conversion.transaction_id))
        return rows.unpack_order(stored).lines if stored is not None else {}

    def _is_visible(self, row: OrderLineRow, event: _LineEvent) -> bool:
        conversion = event.conversion
        if conversion.event_ts >= row.expiry_ts or not self._positions.has_merged(topics.CONVERSIONS, row.offset):
            return False
        if row.event_ts > conversion.event_ts + self._wait_ms:
            return False
        is_same_line = (row.offset, row.line) == (event.source.offset, event.index)
        return is_same_line or not self._waiting.has_line(event.source.partition, row.offset, row.line)

    def _sees(self, event: _LineEvent, known: OrderLineRow) -> bool:
        """Return whether the list, or the part of it, that a purchase line has joined exists for a copy of the line."""
        event_ts = event.conversion.event_ts
        joined = self._lists.find_joined(known.query_id, event_ts)
        product = joined.shown.product(known.item) if joined is not None else None
        if product is None:
            return True
        seen = self._lists.find(known.query_id, event_ts)
        return seen is not None and product in seen.shown.item_id

    def _join_reversal(self, event: _LineEvent, purchase: OrderLineRow | None, *, final: bool) -> bool:
        if purchase is None:
            if final:
                self._reject(event, "no_link", "no purchase of that line was joined")
            return final
        if event.conversion.event_ts > purchase.event_ts + self._refund_ms:
            self._reject(event, "too_late", "past the refund window")
        elif not final and self._may_be_too_late(event, purchase):
            return False
        elif not self._join_query(event, purchase.query_id, purchase.link, purchase):
            self._reject(event, "evicted", "the session was dropped for space")
        return True

    def _may_be_too_late(self, event: _LineEvent, purchase: OrderLineRow) -> bool:
        """Return whether a copy of a purchase waits by whose earlier time a reversal is past the refund window."""
        reversal = event.conversion
        return any(
            isinstance(copy := waiting.event, Conversion)
            and (copy.action_name, copy.client_id) == ("purchase", reversal.client_id)
            and (copy.transaction_id, copy.items[waiting.line].line_id) == (reversal.transaction_id, event.line.line_id)
            and reversal.event_ts > copy.event_ts + self._refund_ms
            for _, waiting in self._waiting.of_query(purchase.query_id)
        )

    def _join_whole_reversal(self, event: _LineEvent) -> bool:
        """Join or reject the line that stands for all lines of its transaction: one unit with many labels."""
        conversion = event.conversion
        refusal = ("no_link", "no purchase line of the transaction was joined")
        results = []
        for target, bought in self._purchases(event):
            if target is None or bought is None:
                refusal = ("evicted", "the session was dropped for space")
                continue
            if conversion.event_ts > bought.event_ts + self._refund_ms:
                refusal = ("too_late", "past the refund window")
                continue
            label = replace(
                _label(event, bought.item, bought.link),
                line_id=bought.line_id,
                quantity=bought.quantity,
                amount_minor=bought.amount_minor,
                currency=bought.currency,
            )
            if self._is_full(target, label):
                refusal = ("evicted", "the list holds too many events")
                continue
            results.append(target.merge(label, "refund"))
        if results:
            new = (result for result in results if result in {MergeResult.ADDED, MergeResult.REPEATED})
            self._counters.add_merge(next(new, results[0]))
            # Further lines of the transaction may be unlinked.
            event.output.add_unlinked(_unlinked(event, ""))
        else:
            self._reject(event, *refusal)
        return True

    def _purchases(self, event: _LineEvent) -> Iterator[tuple[Target | None, OrderLineLabel | None]]:
        """Yield the list and the label of each joined purchase line of a transaction; None where it was evicted."""
        conversion = event.conversion
        for line_id, row in self._stored_lines(conversion).items():
            if self._is_visible(row, event):
                target = self._lists.find_joined(row.query_id, conversion.event_ts)
                purchased = target.labels.order_lines if target is not None else {}
                yield target, purchased.get(line_identity(conversion.transaction_id, line_id))

    def _is_full(self, target: Target, label: OrderLineLabel) -> bool:
        return len(target.labels) >= self._max_list_events and label.identity not in target.labels.order_lines

    def _join_query(self, event: _LineEvent, query_id: str, link: str, known: OrderLineRow | None = None) -> bool:
        """Merge a line into the list of a query, or return False if the list does not take it.

        Args:
            event: The line.
            query_id: The query.
            link: Evidence for the query: `query_id`, `last_click`, or that of the known row.
            known: The row of the line or of its purchase; the windows were checked when it joined.
        """
        conversion = event.conversion
        find = self._lists.find if known is None else self._lists.find_joined
        target = find(query_id, conversion.event_ts)
        if target is None or target.client_id != conversion.client_id:
            return False
        if known is None and conversion.event_ts > target.last_ts:
            return False
        if known is not None:
            item = known.item
        elif event.line.object_id in target.shown.item_id:
            item = target.shown.place(event.line.object_id)
        else:
            return False
        label = _label(event, item, link)
        if self._is_full(target, label):
            self._reject(event, "evicted", "the list holds too many events")
            return True
        is_purchase = conversion.action_name == "purchase"
        if is_purchase and self._has_too_many_lines(event):
            self._reject(event, "evicted", "the order has too many lines")
            return True
        result = target.merge(label, "conversion" if is_purchase else "refund")
        joined = self._counters.add_merge(result)
        if joined and target.is_foreign(label):
            self._counters["currency_differs"] += 1
        if is_purchase and result is not MergeResult.DUPLICATE:
            self._note_purchase(event, target, label, joined=joined)
        return True

    def _has_too_many_lines(self, event: _LineEvent) -> bool:
        lines = self._stored_lines(event.conversion)
        return len(lines) >= self._max_list_events and event.line.line_id not in lines

    def _note_purchase(self, event: _LineEvent, target: Target, label: OrderLineLabel, *, joined: bool) -> None:
        """Keep the query of a purchase line for its copies and reversals, and a new one for the client's profile."""
        # A copy may have replaced the content of the record that joined; the row still names that record.
        conversion, shown, kept = event.conversion, target.shown, target.labels.order_lines[label.identity]
        until_ts = max(kept.event_ts + self._refund_ms, target.event_ts + self._attribution_ms)
        lines = self._stored_lines(conversion)
        known = lines.get(event.line.line_id)
        lines[event.line.line_id] = OrderLineRow(
            query_id=target.query_id,
            item=kept.item,
            event_ts=kept.event_ts,
            event_id=kept.event_id,
            offset=joined_offset(kept),
            line=known.line if known is not None and known.offset == joined_offset(kept) else event.index,
            link=kept.link,
            expiry_ts=until_ts + self._slack_ms,
        )
        expiry_ts = max(line.expiry_ts for line in lines.values())
        key = rows.order_key(conversion.client_id, conversion.transaction_id)
        self._warm.put(key, rows.pack_warm(expiry_ts, OrderRow(lines)))
        if joined:
            self._counters[f"link_{label.link}"] += 1
        behaviour = Behaviour(
            event_id=kept.event_id,
            item_id=shown.product(kept.item) or event.line.object_id,
            action="purchase",
            event_ts=kept.event_ts,
            query_id=target.query_id,
            category=shown.query_category,
            price_minor=shown.price(kept.item),
        )
        self._profiles.add(conversion.client_id, behaviour, replaces=not joined)

    def _absence(self, conversion: Conversion, query_id: str | None) -> tuple[str, str]:
        """Return reason and detail for a purchase line that joins no list."""
        if query_id is None:
            return "no_click", "no click of the client on the item"
        if self._lists.is_evicted(query_id, conversion.event_ts):
            return "evicted", "the session was dropped for space"
        target = self._lists.find(query_id, conversion.event_ts)
        if target is None:
            return self._lists.absence(query_id, conversion.event_ts)
        if target.client_id != conversion.client_id:
            return "no_link", "the list was shown to another client"
        if conversion.event_ts > target.last_ts:
            return "too_late", "past the window of the list"
        return "not_in_list", "the list lacks the item, and the client clicked it nowhere else"

    def _reject(self, event: _LineEvent, reason: str, detail: str) -> None:
        self._counters.add_unjoined(event.source.topic, reason, event.conversion.source)
        client_id = event.conversion.client_id
        event.output.add_unjoined(client_id, event.source, reason, detail, line_id=event.line.line_id)
        event.output.add_unlinked(_unlinked(event, reason))


def _refund_id(conversion: Conversion) -> str:
    """Return what tells the reversals of a line apart; empty for a purchase."""
    return "" if conversion.action_name == "purchase" else conversion.refund_id or conversion.event_id


def _unlinked(event: _LineEvent, reason: str) -> UnlinkedLine:
    conversion, line, source = event.conversion, event.line, event.source
    return UnlinkedLine(
        client_id=conversion.client_id,
        session_id=conversion.session_id,
        user_id=conversion.user_id,
        event_id=conversion.event_id,
        event_ts=conversion.event_ts,
        append_ts=source.append_ts,
        transaction_id=conversion.transaction_id,
        line_id=line.line_id,
        refund_id=_refund_id(conversion),
        action=conversion.action_name,
        object_id=line.object_id,
        quantity=line.quantity,
        amount_minor=line.amount_minor,
        currency=conversion.currency,
        reason=reason,
        source=conversion.source,
        src=(source.partition, source.offset),
    )


def _label(event: _LineEvent, item: int, link: str) -> OrderLineLabel:
    conversion, line, source = event.conversion, event.line, event.source
    return OrderLineLabel(
        event_id=conversion.event_id,
        transaction_id=conversion.transaction_id,
        line_id=line.line_id,
        refund_id=_refund_id(conversion),
        action=conversion.action_name,
        item=item,
        quantity=line.quantity,
        amount_minor=line.amount_minor,
        currency=conversion.currency,
        event_ts=conversion.event_ts,
        append_ts=source.append_ts,
        offset=source.offset,
        link=link,
        source=conversion.source,
    )
