"""The newest clicks of each client on each item, which a conversion without `query_id` may join."""

from stream.join import rows
from stream.join.rows import ItemClick
from stream.join.settings import JoinSettings
from stream.join.tiers import WarmTier
from stream.join.watermark import Watermark


class ItemClicks:
    """Clicks by client and item, newest first."""

    def __init__(self, settings: JoinSettings, warm: WarmTier, watermark: Watermark) -> None:
        self._attribution_ms = settings.attribution_s * 1_000
        self._wait_ms = settings.wait_s * 1_000
        self._slack_ms = settings.slack_ms
        self._num_kept = settings.clicks_per_item
        self._warm = warm
        self._watermark = watermark

    def add(self, client_id: str, item_id: str, click: ItemClick) -> None:
        """Add a click unless it is known."""
        key = rows.clicks_key(client_id, item_id)
        stored = self._warm.get(key)
        newest, impression_ts = [click], click.impression_ts
        if stored is not None:
            known = rows.unpack_clicks(stored)
            if any(other.event_id == click.event_id for other in known):
                return
            newest = sorted([*known, click], key=lambda c: (c.event_ts, c.event_id), reverse=True)
            # Besides the newest few, a conversion that still waits may join any click past this horizon.
            horizon_ts = self._watermark.watermark_ts - self._wait_ms
            recent = sum(c.event_ts > horizon_ts for c in newest)
            del newest[recent + self._num_kept :]
            impression_ts = max(c.impression_ts for c in newest)
        expiry_ts = impression_ts + self._attribution_ms + self._slack_ms
        self._warm.put(key, rows.pack_warm(expiry_ts, newest))

    def last_query(self, client_id: str, item_id: str, event_ts: int) -> str | None:
        """Return the query of the last click before a time, if the time is within its attribution window."""
        stored = self._warm.get(rows.clicks_key(client_id, item_id))
        if stored is None:
            return None
        for click in rows.unpack_clicks(stored):
            if click.event_ts <= event_ts <= click.impression_ts + self._attribution_ms:
                return click.query_id
        return None
