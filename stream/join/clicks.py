"""The join of clicks and cart additions: a click joins the list that it names, or an inferred list.

A click inside the window of an open list joins at once. A click past the window joins only a session with labels, so it
waits until the session has closed. A click on an unknown list waits for the list. A click without `query_id` joins the
newest open list of its client that shows the item or, if none was shown before the click, the first one that was shown
within the tolerance of clocks after it. Its copies join the same list if that list was not shown later than they were
sent.

Source: docs/stream.md, Emission of sessions.
"""

from stream.join.item_clicks import ItemClicks
from stream.join.labels import ClickLabel, MergeResult
from stream.join.lists import Lists
from stream.join.outcome_counters import OutcomeCounters
from stream.join.output import MicroBatchOutput
from stream.join.profiles import Profiles
from stream.join.rows import ItemClick, Source
from stream.join.settings import JoinSettings
from stream.join.target import Target
from stream.schemas.events import MAX_PAGE_ITEMS, Behaviour, Click, ClickedPage

_Refusal = tuple[str, str]
"""Reason code and detail."""


def click_deadline(click: Click, settings: JoinSettings) -> int:
    """Return the time at which a click gets its outcome; an inferred link needs no list past the tolerance."""
    return click.event_ts + 1 + (settings.clock_tolerance_ms if click.query_id is None else settings.wait_s * 1_000)


class Clicks:
    """The join of clicks and cart additions."""

    def __init__(
        self,
        settings: JoinSettings,
        lists: Lists,
        item_clicks: ItemClicks,
        profiles: Profiles,
        counters: OutcomeCounters,
    ) -> None:
        self._infer_links = settings.infer_links
        self._tolerance_ms = settings.clock_tolerance_ms
        self._max_list_events = settings.max_list_events
        self._lists = lists
        self._item_clicks = item_clicks
        self._profiles = profiles
        self._counters = counters

    def join(self, click: Click, source: Source, output: MicroBatchOutput, *, final: bool) -> bool:
        """Join or reject a click, or return False if it has to wait; a final click never waits."""
        target = self._find(click, final=final)
        refusal: _Refusal | None
        if target is None or (target.is_open and click.event_ts > target.last_ts):
            if not final and (self._infer_links or click.query_id is not None):
                return False
            refusal = self._absence(click, target)
        elif target.is_open and not final and click.object_id not in target.shown.item_id:
            # A further part of the list may show the item.
            return False
        else:
            refusal = self._refusal(click, target)
            if refusal is None:
                self._add_label(click, source, target)
                return True
        self._reject(click, source, output, *refusal)
        return True

    def _find(self, click: Click, *, final: bool) -> Target | None:
        if click.query_id is not None:
            return self._lists.find(click.query_id, click.event_ts)
        if self._infer_links and final:
            joined = self._item_clicks.query_of(click.client_id, click.object_id, click.event_id)
            target = None if joined is None else self._lists.find(joined, click.event_ts)
            # A copy of an earlier time does not see a list that was shown later, whether a restart knows it or not.
            if joined is not None and (target is None or target.event_ts <= click.event_ts + self._tolerance_ms):
                return target
            return self._lists.find_newest(click.client_id, click.object_id, click.event_ts)
        return None

    def _absence(self, click: Click, target: Target | None) -> _Refusal:
        """Return reason and detail for a click that no list takes."""
        if target is not None:
            return "too_late", "the session closed without a click"
        if click.query_id is not None:
            return self._lists.absence(click.query_id, click.event_ts)
        if self._infer_links:
            return "no_link", "no open list of the client shows the item"
        return "no_link", "no query_id, and links are not inferred"

    def _refusal(self, click: Click, target: Target) -> _Refusal | None:
        """Return reason and detail if a list does not take a click."""
        if target.client_id != click.client_id:
            return "no_link", "the list was shown to another client"
        if click.event_ts > target.last_ts:
            return "too_late", "past the attribution window"
        if click.object_id not in target.shown.item_id:
            return "not_in_list", f"item '{click.object_id}'"
        is_full = len(target.labels) >= self._max_list_events and click.event_id not in target.labels.clicks
        return ("evicted", "the list holds too many events") if is_full else None

    def _add_label(self, click: Click, source: Source, target: Target) -> None:
        """Merge the label of a click, and note a new one for later conversions and for the profile of its client."""
        shown, counters = target.shown, self._counters
        item = shown.place(click.object_id, click.position)
        link = "query_id" if click.query_id is not None else "inferred"
        label = ClickLabel(
            click.event_id,
            click.action_name,
            item,
            click.event_ts,
            source.append_ts,
            source.offset,
            link,
            click.source,
            position=click.position or 0,
        )
        result = target.merge(label, "click")
        if click.position is not None and click.position != item + 1:
            counters["position_differs"] += 1
        joined = counters.add_merge(result)
        if result is MergeResult.DUPLICATE:
            return
        if joined:
            counters["clicks_joined"] += 1
            counters[f"link_{link}"] += 1
        event_ts = target.labels.clicks[click.event_id].event_ts
        clicked = ItemClick(event_ts, click.event_id, target.query_id, target.event_ts)
        self._item_clicks.add(click.client_id, click.object_id, clicked)
        behaviour = Behaviour(
            event_id=click.event_id,
            item_id=click.object_id,
            action=click.action_name,
            event_ts=event_ts,
            query_id=target.query_id,
            category=shown.query_category,
            price_minor=shown.price(item),
        )
        page = ClickedPage(
            query_id=target.query_id, impression_ts=target.event_ts, item_id=shown.item_id[:MAX_PAGE_ITEMS]
        )
        self._profiles.add(click.client_id, behaviour, page, replaces=not joined)

    def restate(self, target: Target) -> None:
        """Note the time of a list for later conversions, after a part of it has made it older."""
        for label in target.labels.clicks.values():
            product = target.shown.product(label.item)
            if product is not None:
                self._item_clicks.restate(target.client_id, product, target.query_id, target.event_ts)

    def _reject(self, click: Click, source: Source, output: MicroBatchOutput, reason: str, detail: str) -> None:
        self._counters.add_unjoined(source.topic, reason, click.source)
        output.add_unjoined(click.client_id, source, reason, detail)
