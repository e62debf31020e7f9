"""Where an order line belongs: the list it names, else the client's last click on the item; a reversal goes where its
purchase went.

Source: STREAM.md 7.
"""

from stream.join import labels, rows, sessions
from stream.join.labels import Deal, Labels, Merge
from stream.join.ledger import Ledger
from stream.join.rows import Order, Source
from stream.join.settings import JoinSettings
from stream.join.state import State, head_of
from stream.join.watermark import Clock
from stream.schemas import outcomes, topics
from stream.schemas.events import Behaviour, Conversion, OrderLine


class Orders:
    """Joins purchases, cancellations and refunds, line by line."""

    def __init__(self, settings: JoinSettings, state: State, ledger: Ledger, clock: Clock) -> None:
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._attribution_ms = settings.attribution_s * 1_000
        self._refund_ms = settings.refund_s * 1_000
        self._max_list_events = settings.max_list_events

    def place(self, conversion: Conversion, line: int, source: Source, *, final: bool) -> bool:
        """Join or divert an order line, or return False when it has to wait; a final line never has to."""
        ordered = conversion.items[line]
        order = self._known_order(conversion, ordered)
        if conversion.action_name != "purchase":
            return self._place_reversal(conversion, ordered, order, source, final=final)
        if order is not None:
            placed = self._deal(conversion, ordered, order.query_id, source, order.link, order=order)
            if order.offset != source.offset:
                if not placed:
                    self._ledger.counters[outcomes.DUPLICATE] += 1
                return True
            # After a crash the row comes from the record in hand and says where it belongs, once that is open again.
            if placed:
                return True
        query_id = ordered.query_id or conversion.query_id
        if query_id is not None and self._deal(conversion, ordered, query_id, source, "query_id"):
            return True
        if not final:
            return False
        clicked = self._last_click(conversion, ordered)
        if clicked is None or not self._deal(conversion, ordered, clicked, source, "last_click"):
            self._lose(conversion, ordered, source, *self._reason_unplaced(conversion, query_id))
        return True

    def _known_order(self, conversion: Conversion, ordered: OrderLine) -> Order | None:
        stored = self._state.warm.get(rows.order_key(conversion.client_id, conversion.transaction_id, ordered.line_id))
        order = rows.unpack_order(stored) if stored is not None else None
        if order is not None and order.offset >= self._clock.next.get(topics.CONVERSIONS, 0):
            return None  # after a crash: its record is still to be read again
        return order

    def _place_reversal(
        self, conversion: Conversion, ordered: OrderLine, order: Order | None, source: Source, *, final: bool
    ) -> bool:
        if order is None:
            if final:
                self._lose(conversion, ordered, source, "no_link", "no purchase of that line was joined")
            return final
        if conversion.event_ts > order.event_ts + self._refund_ms:
            self._lose(conversion, ordered, source, "too_late", "past the refund window")
        elif not self._deal(conversion, ordered, order.query_id, source, order.link, order=order):
            self._lose(conversion, ordered, source, "evicted", "the session was dropped for space")
        return True

    def _deal(
        self,
        conversion: Conversion,
        ordered: OrderLine,
        query_id: str,
        source: Source,
        link: str,
        *,
        order: Order | None = None,
    ) -> bool:
        """Merge a line into a query if that query can take it; one with an order row was admitted before."""
        query = self._state.open.get(query_id)
        if query is not None:
            if query.client_id != conversion.client_id or (order is None and conversion.event_ts >= query.close_ts):
                return False
            shown, impression_ts = sessions.head(self._state.list_part(query)), query.event_ts
            deal = _line(conversion, ordered, shown, source, link, order)
            if deal is None:
                return False
            if query.labels is None:
                query.labels = labels.empty()
            if self._is_full(query.labels, deal):
                self._lose(conversion, ordered, source, "evicted", "the list holds too many events")
                return True
            verdict = query.labels.merge_deal(deal)
            self._state.relabelled(query, verdict)
        else:
            correction = self._state.find_session(query_id)
            if correction is None or correction.session.client_id != conversion.client_id:
                return False
            impression_ts = correction.session.event_ts
            if order is None and conversion.event_ts > impression_ts + self._attribution_ms:
                return False
            shown = head_of(correction)
            deal = _line(conversion, ordered, shown, source, link, order)
            if deal is None:
                return False
            if self._is_full(correction.session.labels, deal):
                self._lose(conversion, ordered, source, "evicted", "the list holds too many events")
                return True
            verdict = correction.session.labels.merge_deal(deal)
            reason = "conversion" if conversion.action_name == "purchase" else "refund"
            self._state.correct(query_id, correction, verdict, deal.item, reason)
        self._after(conversion, ordered, query_id, impression_ts, shown, deal, verdict)
        return True

    def _is_full(self, known: Labels, deal: Deal) -> bool:
        return len(known) >= self._max_list_events and deal.identity not in known.deals

    def _after(
        self,
        conversion: Conversion,
        ordered: OrderLine,
        query_id: str,
        impression_ts: int,
        shown: sessions.ListHead,
        deal: Deal,
        verdict: Merge,
    ) -> None:
        joined = self._ledger.count_merge(verdict)
        if conversion.action_name != "purchase" or verdict is Merge.DUPLICATE:
            return
        order = Order(query_id, deal.item, conversion.event_ts, conversion.event_id, deal.offset, deal.link)
        until_ts = max(conversion.event_ts + self._refund_ms, impression_ts + self._attribution_ms)
        key = rows.order_key(conversion.client_id, conversion.transaction_id, ordered.line_id)
        self._state.warm.put(key, rows.pack_warm(until_ts + self._state.slack_ms, order))
        if joined:
            self._ledger.counters[f"link_{deal.link}"] += 1
            behaviour = Behaviour(
                event_id=conversion.event_id,
                item_id=shown.item_id[deal.item],
                action="purchase",
                event_ts=conversion.event_ts,
                category=shown.query_category,
                price_minor=shown.price(deal.item),
            )
            self._state.behave(conversion.client_id, behaviour)

    def _last_click(self, conversion: Conversion, ordered: OrderLine) -> str | None:
        stored = self._state.warm.get(rows.clicks_key(conversion.client_id, ordered.object_id))
        if stored is None:
            return None
        for clicked in rows.unpack_clicks(stored):
            if clicked.event_ts <= conversion.event_ts <= clicked.impression_ts + self._attribution_ms:
                return clicked.query_id
        return None

    def _reason_unplaced(self, conversion: Conversion, query_id: str | None) -> tuple[str, str]:
        if query_id is None:
            return "no_click", "no click of the client on the item"
        if self._state.was_evicted(query_id):
            return "evicted", "the session was dropped for space"
        query = self._state.open.get(query_id)
        correction = self._state.find_session(query_id) if query is None else None
        if query is not None:
            client_id, last_ts = query.client_id, query.close_ts - 1
        elif correction is not None:
            client_id, last_ts = correction.session.client_id, correction.session.event_ts + self._attribution_ms
        elif self._state.was_closed(query_id):
            return "too_late", "the session closed without a click"
        else:
            return "no_impression", f"query '{query_id}'"
        if client_id != conversion.client_id:
            return "no_link", "the list was shown to another client"
        if conversion.event_ts > last_ts:
            return "too_late", "past the window of the list"
        return "not_in_list", "the list lacks the item, and the client clicked it nowhere else"

    def _lose(self, conversion: Conversion, ordered: OrderLine, source: Source, reason: str, detail: str) -> None:
        self._ledger.divert(topics.CONVERSIONS, conversion.client_id, source, reason, detail, line_id=ordered.line_id)


def _line(
    conversion: Conversion,
    ordered: OrderLine,
    shown: sessions.ListHead,
    source: Source,
    link: str,
    order: Order | None,
) -> Deal | None:
    """Return the line as a label, or None if the list lacks its item."""
    if order is not None:
        item = order.item
    elif ordered.object_id in shown.item_id:
        item = shown.item_id.index(ordered.object_id)
    else:
        return None
    reversal = conversion.action_name != "purchase"
    return Deal(
        event_id=conversion.event_id,
        transaction_id=conversion.transaction_id,
        line_id=ordered.line_id,
        refund_id=(conversion.refund_id or conversion.event_id) if reversal else "",
        action=conversion.action_name,
        item=item,
        quantity=ordered.quantity,
        amount_minor=ordered.amount_minor,
        currency=conversion.currency,
        event_ts=conversion.event_ts,
        append_ts=source.append_ts,
        offset=source.offset,
        link=link,
    )
