"""The newest clicks of each client on each item, which a conversion without `query_id` may join."""

from collections.abc import Iterable

from msgspec.structs import replace

from stream.join import rows
from stream.join.rows import ItemClick
from stream.join.settings import JoinSettings
from stream.join.tiers import BatchNumbers, WarmTier


class ItemClicks:
    """Clicks by client and item, newest first.

    A row keeps each click that an order without an outcome may join, also an order that a restart reads again. So the
    newest confirmed micro-batch decides what is dropped, and neither the watermark nor unconfirmed rows do. Events that
    come later than the lateness do not see what the newest micro-batch made superfluous, whether it was dropped or not.
    """

    def __init__(self, settings: JoinSettings, warm: WarmTier, batches: BatchNumbers) -> None:
        self._attribution_ms = settings.attribution_s * 1_000
        self._slack_ms = settings.slack_ms
        self._tolerance_ms = settings.clock_tolerance_ms
        self._num_kept = settings.clicks_per_item
        self._warm = warm
        self._batches = batches

    def add(self, client_id: str, item_id: str, click: ItemClick) -> None:
        """Add a click unless it is known with this time or an earlier one."""
        key = rows.clicks_key(client_id, item_id)
        stored = self._warm.get(key)
        kept, impression_ts = [click], click.impression_ts
        if stored is not None:
            known = rows.unpack_clicks(stored)
            same = [other for other in known if _is_same(other, click)]
            if same and min(other.event_ts for other in same) <= click.event_ts:
                return
            others = [other for other in known if not _is_same(other, click)]
            newest = sorted([*others, click], key=lambda c: (c.event_ts, c.event_id), reverse=True)
            kept = list(self._needed(newest, self._batches.confirmed_ts))
            impression_ts = max(c.impression_ts for c in kept)
        expiry_ts = impression_ts + self._attribution_ms + self._slack_ms
        self._warm.put(key, rows.pack_warm(expiry_ts, kept))

    def _needed(self, newest: Iterable[ItemClick], outcomes_ts: int) -> Iterable[ItemClick]:
        """Yield the clicks that an order may join if every event before a time has its outcome."""
        num_past, impression_ts = 0, -1
        for click in newest:
            if click.event_ts >= outcomes_ts:
                yield click
                continue
            num_past += 1
            # A click past the window of each newer one may still have a window of its own.
            if num_past <= self._num_kept or click.impression_ts > impression_ts:
                yield click
            impression_ts = max(impression_ts, click.impression_ts)

    def restate(self, client_id: str, item_id: str, query_id: str, impression_ts: int) -> None:
        """Note that the list of a query is older than known: an earlier part has arrived."""
        key = rows.clicks_key(client_id, item_id)
        stored = self._warm.get(key)
        known = rows.unpack_clicks(stored) if stored is not None else []
        if stored is not None and any(click.query_id == query_id for click in known):
            kept = [
                replace(click, impression_ts=impression_ts) if click.query_id == query_id else click for click in known
            ]
            self._warm.put(key, rows.pack_warm(rows.expiry_of(stored), kept))

    def query_of(self, client_id: str, item_id: str, event_id: str) -> str | None:
        """Return the query that a click has joined, or None if it is not known."""
        known = self._visible(client_id, item_id)
        return next((click.query_id for click in known if click.event_id == event_id), None)

    def last_query(self, client_id: str, item_id: str, event_ts: int) -> str | None:
        """Return the query of the last click up to a time, or else of the first one within the tolerance after it.

        The time is within the attribution window of the click.
        """
        later = None
        for click in self._visible(client_id, item_id):
            if event_ts > click.impression_ts + self._attribution_ms:
                continue
            if click.event_ts <= event_ts:
                return click.query_id
            if click.event_ts <= event_ts + self._tolerance_ms:
                later = click.query_id
        return later

    def _visible(self, client_id: str, item_id: str) -> Iterable[ItemClick]:
        stored = self._warm.get(rows.clicks_key(client_id, item_id))
        return self._needed(rows.unpack_clicks(stored), self._batches.ended_ts) if stored is not None else ()


def _is_same(left: ItemClick, right: ItemClick) -> bool:
    return left.event_id == right.event_id and left.query_id == right.query_id
