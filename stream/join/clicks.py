"""Where a click belongs: the list it names, or the newest open list of its client that shows the item.

A click inside the window of an open list joins at once. One past the window joins only a session that was labelled
inside it, so it waits until that is known; one whose list is unknown waits for the list.

Source: STREAM.md 7.
"""

from stream.join import labels, rows, sessions
from stream.join.labels import Labels, Merge, Touch
from stream.join.ledger import Ledger
from stream.join.rows import ItemClick, Source
from stream.join.settings import JoinSettings
from stream.join.state import OpenQuery, State, head_of
from stream.join.watermark import Clock
from stream.schemas import topics
from stream.schemas.events import Behaviour, Click


class Clicks:
    """Joins clicks and cart additions."""

    def __init__(self, settings: JoinSettings, state: State, ledger: Ledger, clock: Clock) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._attribution_ms = settings.attribution_s * 1_000
        self._wait_ms = settings.wait_s * 1_000

    def place(self, click: Click, source: Source, *, final: bool) -> bool:
        """Join or divert a click, or return False when it has to wait; a final click never has to."""
        if click.query_id is None:
            return self._place_unnamed(click, source, final=final)
        query = self._state.open.get(click.query_id)
        if query is not None and click.event_ts < query.close_ts:
            if query.client_id != click.client_id:
                self._lose(click, source, "no_link", "the list was shown to another client")
            else:
                self._touch_open(query, sessions.head(self._state.list_part(query)), click, source, "query_id")
            return True
        if query is None and self._place_in_closed(click.query_id, click, source):
            return True
        if final:
            self._give_up(click.query_id, click, source, known=query is not None)
        return final

    def _place_unnamed(self, click: Click, source: Source, *, final: bool) -> bool:
        if not self._settings.infer_links:
            self._lose(click, source, "no_link", "no query_id, and links are not inferred")
            return True
        if not final:
            return False
        candidates = [q for q in self._state.queries_of(click.client_id) if q.event_ts <= click.event_ts < q.close_ts]
        for query in sorted(candidates, key=lambda q: (q.event_ts, q.query_id), reverse=True):
            shown = sessions.head(self._state.list_part(query))
            if click.object_id in shown.item_id:
                self._touch_open(query, shown, click, source, "inferred")
                return True
        self._lose(click, source, "no_link", "no open list of the client shows the item")
        return True

    def _touch_open(self, query: OpenQuery, shown: sessions.ListHead, click: Click, source: Source, link: str) -> None:
        if click.object_id not in shown.item_id:
            self._lose(click, source, "not_in_list", f"item '{click.object_id}'")
            return
        if query.labels is None:
            query.labels = labels.empty()
        if self._is_full(query.labels, click):
            self._lose(click, source, "evicted", "the list holds too many events")
            return
        touch = _touch(click, shown, source, link)
        verdict = query.labels.merge_touch(touch)
        self._state.relabelled(query, verdict)
        self._after(click, query.query_id, query.event_ts, shown, touch, verdict)

    def _place_in_closed(self, query_id: str, click: Click, source: Source) -> bool:
        correction = self._state.find_session(query_id)
        if correction is None:
            return False
        warm = correction.session
        if warm.client_id != click.client_id:
            self._lose(click, source, "no_link", "the list was shown to another client")
        elif click.event_ts > warm.event_ts + self._attribution_ms:
            self._lose(click, source, "too_late", "past the attribution window")
        elif self._is_full(warm.labels, click):
            self._lose(click, source, "evicted", "the list holds too many events")
        else:
            shown = head_of(correction)
            if click.object_id not in shown.item_id:
                self._lose(click, source, "not_in_list", f"item '{click.object_id}'")
                return True
            touch = _touch(click, shown, source, "query_id")
            verdict = warm.labels.merge_touch(touch)
            self._state.correct(query_id, correction, verdict, touch.item, "click")
            self._after(click, query_id, warm.event_ts, shown, touch, verdict)
        return True

    def _is_full(self, known: Labels, click: Click) -> bool:
        return len(known) >= self._settings.max_list_events and click.event_id not in known.touches

    def _give_up(self, query_id: str, click: Click, source: Source, *, known: bool) -> None:
        if known or self._state.was_closed(query_id):
            self._lose(click, source, "too_late", "the session closed without a click")
        elif self._state.was_evicted(query_id):
            self._lose(click, source, "evicted", "the session was dropped for space")
        else:
            self._lose(click, source, "no_impression", f"query '{query_id}'")

    def _after(
        self,
        click: Click,
        query_id: str,
        impression_ts: int,
        shown: sessions.ListHead,
        touch: Touch,
        verdict: Merge,
    ) -> None:
        counters = self._ledger.counters
        if click.position is not None and click.position != touch.item + 1:
            counters["position_differs"] += 1
        if not self._ledger.count_merge(verdict):
            return
        counters["clicks_joined"] += 1
        counters[f"link_{touch.link}"] += 1
        self._index(click, query_id, impression_ts)
        behaviour = Behaviour(
            event_id=click.event_id,
            item_id=click.object_id,
            action=click.action_name,
            event_ts=click.event_ts,
            category=shown.query_category,
            price_minor=shown.price(touch.item),
        )
        self._state.behave(click.client_id, behaviour)

    def _index(self, click: Click, query_id: str, impression_ts: int) -> None:
        """Note the click for conversions that name no query."""
        key = rows.clicks_key(click.client_id, click.object_id)
        stored = self._state.warm.get(key)
        entry = ItemClick(click.event_ts, click.event_id, query_id, impression_ts)
        newest = [entry]
        if stored is not None:
            known = rows.unpack_clicks(stored)
            if any(other.event_id == entry.event_id for other in known):
                return
            newest = sorted([*known, entry], key=lambda c: (c.event_ts, c.event_id), reverse=True)
            # Beyond the newest few, those stay that a conversion still waiting may have to choose from.
            horizon_ts = self._clock.watermark_ts - self._wait_ms
            recent = sum(c.event_ts > horizon_ts for c in newest)
            del newest[recent + self._settings.clicks_per_item :]
            impression_ts = max(c.impression_ts for c in newest)
        expiry_ts = impression_ts + self._attribution_ms + self._state.slack_ms
        self._state.warm.put(key, rows.pack_warm(expiry_ts, newest))

    def _lose(self, click: Click, source: Source, reason: str, detail: str) -> None:
        self._ledger.divert(topics.CLICKS, click.client_id, source, reason, detail)


def _touch(click: Click, shown: sessions.ListHead, source: Source, link: str) -> Touch:
    item = shown.item_id.index(click.object_id)
    return Touch(click.event_id, click.action_name, item, click.event_ts, source.append_ts, source.offset, link)
