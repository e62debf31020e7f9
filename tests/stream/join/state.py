"""The state of a join for tests of its components."""

from collections.abc import Sequence

from stream.join import labels
from stream.join.admission import ClientLoad
from stream.join.closed_sessions import ClosedSessions
from stream.join.deadlines import Deadlines
from stream.join.labels import ClickLabel
from stream.join.lists import Lists
from stream.join.open_queries import OpenQueries, OpenQuery
from stream.join.positions import Positions
from stream.join.rows import SessionRow
from stream.join.sessions import list_payload
from stream.join.tiers import BatchNumbers, HotTier, WarmTier
from stream.join.waiting_events import WaitingEvents
from stream.join.watermark import Watermark
from tests.laws.join_log import CLIENTS, SETTINGS, START_TS, impression

WINDOW_MS = SETTINGS.click_window_s * 1_000
SHOWN = ("item-0", "item-1")


class State:
    """Tiers and indexes as the join connects them."""

    def __init__(self) -> None:
        self.hot_rows: dict[bytes, bytes] = {}
        self.warm_rows: dict[bytes, bytes] = {}
        self.batches = BatchNumbers()
        self.hot = HotTier(self.hot_rows, self.batches)
        self.warm = WarmTier(self.warm_rows, self.batches)
        self.deadlines = Deadlines()
        self.load = ClientLoad()
        self.watermark = Watermark(SETTINGS, Positions())
        self.open = OpenQueries(SETTINGS, self.hot, self.deadlines, self.load)
        self.waiting = WaitingEvents(self.hot, self.deadlines, self.load)
        self.closed = ClosedSessions(0, SETTINGS, self.warm, self.batches)
        self.lists = Lists(SETTINGS, self.open, self.closed)

    def open_query(self, number: int, *, at_s: int = 0, items: Sequence[str] = SHOWN) -> OpenQuery:
        """Open query `q<number>` of the first client."""
        shown = impression(number, at_s=at_s, items=items)
        query = OpenQuery(
            query_id=shown.query_id,
            client_id=shown.client_id,
            event_id=shown.event_id,
            event_ts=shown.event_ts,
            close_ts=shown.event_ts + WINDOW_MS,
            offset=number,
            n=len(items),
        )
        self.open.open(query, list_payload(shown, 0, number))
        return query

    def close_labelled(self, number: int) -> None:
        """Write the closed session of query `q<number>` with click `c0`."""
        merged = labels.empty()
        merged.merge(click_label(0))
        payload = list_payload(impression(number, items=SHOWN), 0, number)
        self.closed.put(f"q{number}", SessionRow(0, START_TS, CLIENTS[0], len(SHOWN), merged, payload, START_TS))


def click_label(number: int, *, item: int = 0, offset: int | None = None) -> ClickLabel:
    """Return the label of click `c<number>`."""
    event_ts = START_TS + number
    return ClickLabel(f"c{number}", "click", item, event_ts, event_ts, number if offset is None else offset, "query_id")
