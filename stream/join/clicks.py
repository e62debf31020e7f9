"""The join of clicks and cart additions: a click joins the list that it names, or an inferred list.

A click inside the window of an open list joins at once. A click past the window joins only a session with labels, so it
waits until the session has closed. A click on an unknown list waits for the list. A click without `query_id` joins the
newest open list of its client that shows the item.

Source: docs/stream.md, Emission of sessions.
"""

from stream.join.item_clicks import ItemClicks
from stream.join.labels import ClickLabel
from stream.join.outcome_counters import OutcomeCounters
from stream.join.output import MicroBatchOutput
from stream.join.profiles import Profiles
from stream.join.rows import ItemClick, Source
from stream.join.settings import JoinSettings
from stream.join.targets import Target, Targets
from stream.schemas.events import Behaviour, Click

_Refusal = tuple[str, str]
"""Reason code and detail."""


def click_deadline(click: Click, wait_ms: int) -> int:
    """Return the time at which a click gets its outcome; an inferred link needs no list after the click."""
    return click.event_ts + 1 + (wait_ms if click.query_id is not None else 0)


class Clicks:
    """Joins clicks and cart additions."""

    def __init__(
        self,
        settings: JoinSettings,
        targets: Targets,
        item_clicks: ItemClicks,
        profiles: Profiles,
        counters: OutcomeCounters,
    ) -> None:
        self._infer_links = settings.infer_links
        self._max_list_events = settings.max_list_events
        self._targets = targets
        self._item_clicks = item_clicks
        self._profiles = profiles
        self._counters = counters

    def join(self, click: Click, source: Source, output: MicroBatchOutput, *, final: bool) -> bool:
        """Join or reject a click, or return False if it has to wait; a final click never waits."""
        if click.query_id is not None:
            found = self._find_named(click, click.query_id, final=final)
        else:
            found = self._find_inferred(click, final=final)
        if found is None:
            return False
        if isinstance(found, Target):
            self._add_label(click, source, found)
        else:
            self._reject(click, source, output, *found)
        return True

    def _find_named(self, click: Click, query_id: str, *, final: bool) -> Target | _Refusal | None:
        """Return the list that a click joins, or the reason why it joins none, or None if it has to wait."""
        target = self._targets.find(query_id)
        if target is not None and not (target.is_open and click.event_ts > target.last_ts):
            return self._refusal(click, target) or target
        if not final:
            return None
        return self._targets.absence(query_id) if target is None else ("too_late", "the session closed without a click")

    def _find_inferred(self, click: Click, *, final: bool) -> Target | _Refusal | None:
        """Return the same for a click without `query_id`."""
        if not self._infer_links:
            return "no_link", "no query_id, and links are not inferred"
        if not final:
            return None
        target = self._targets.find_newest(click.client_id, click.object_id, click.event_ts)
        if target is None:
            return "no_link", "no open list of the client shows the item"
        return self._refusal(click, target) or target

    def _refusal(self, click: Click, target: Target) -> _Refusal | None:
        is_full = len(target.labels) >= self._max_list_events and click.event_id not in target.labels.clicks
        if target.client_id != click.client_id:
            return "no_link", "the list was shown to another client"
        if click.event_ts > target.last_ts:
            return "too_late", "past the attribution window"
        # A closed session that is full is not decoded.
        if not (is_full and not target.is_open) and click.object_id not in target.shown.item_id:
            return "not_in_list", f"item '{click.object_id}'"
        return ("evicted", "the list holds too many events") if is_full else None

    def _add_label(self, click: Click, source: Source, target: Target) -> None:
        """Merge the label of a click, and note a new one for later conversions and for the profile of its client."""
        shown, counters = target.shown, self._counters
        item = shown.item_id.index(click.object_id)
        link = "query_id" if click.query_id is not None else "inferred"
        label = ClickLabel(
            click.event_id, click.action_name, item, click.event_ts, source.append_ts, source.offset, link
        )
        result = target.merge(label, "click")
        if click.position is not None and click.position != item + 1:
            counters.add("position_differs")
        if not counters.add_merge(result):
            return
        counters.add("clicks_joined")
        counters.add(f"link_{link}")
        clicked = ItemClick(click.event_ts, click.event_id, target.query_id, target.event_ts)
        self._item_clicks.add(click.client_id, click.object_id, clicked)
        behaviour = Behaviour(
            event_id=click.event_id,
            item_id=click.object_id,
            action=click.action_name,
            event_ts=click.event_ts,
            category=shown.query_category,
            price_minor=shown.price(item),
        )
        self._profiles.add(click.client_id, behaviour)

    def _reject(self, click: Click, source: Source, output: MicroBatchOutput, reason: str, detail: str) -> None:
        self._counters.add_unjoined(source.topic, reason)
        output.add_unjoined(click.client_id, source, reason, detail)
