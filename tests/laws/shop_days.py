"""Random days of a shop for the laws of the join: events with delays, transactions, clocks and limits.

Times lie at the edges of windows about as often as inside of them, and often coincide.
"""

from dataclasses import dataclass
from dataclasses import replace as dataclass_replace

import numpy as np
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.broker.partitioner import partition_of
from stream.join.settings import JoinSettings
from stream.schemas.events import Conversion, Impression
from tests.laws.choices import Choices, choices_of_one_event
from tests.laws.join_log import (
    ITEMS,
    MAX_DELAY_MS,
    NUM_PARTITIONS,
    SETTINGS,
    Event,
    Log,
    Sent,
    click,
    clients_of,
    impression,
    part,
    purchase,
    reversal,
    send,
    whole_reversal,
)

_SPAN_MS = 2_400_000
_UNKNOWN_QUERY = 99
_NAMED = ("query", "query", "query", "other", "unknown", None)
# A copy may have another time: collectors stamp a retry again.
_MAX_RESTAMP_MS = 200_000
_MAX_LATE_MS = 14_400_000
_WINDOW_MS = SETTINGS.click_window_s * 1_000
_ATTRIBUTION_MS = SETTINGS.attribution_s * 1_000
_REFUND_MS = SETTINGS.refund_s * 1_000

_PARTITIONS = (1, 1, 1, 2)
"""Most clients share a partition, as only those may disturb each other."""


@dataclass(frozen=True, kw_only=True)
class ShopDay:
    """The events of a day, and the settings of the join.

    Attributes:
        sent: The events with their delays.
        settings: The settings.
        marker_share: Share of events that end a transaction.
    """

    sent: list[tuple[Event, int]]
    settings: JoinSettings
    marker_share: float

    @property
    def happened(self) -> list[Event]:
        """The events."""
        return [event for event, _ in self.sent]

    def logs(self, seed: int, *, more: list[Event] | None = None, redelayed: bool = False) -> list[Log]:
        """Return the log of each partition.

        Args:
            seed: Decides the markers and delays.
            more: Further events.
            redelayed: Whether the events get other delays.
        """
        rng = np.random.default_rng(seed)
        sent = [send(event, int(rng.integers(MAX_DELAY_MS)) if redelayed else delay) for event, delay in self.sent]
        sent += [send(event, int(rng.integers(MAX_DELAY_MS))) for event in more or ()]
        by_partition: dict[int, list[Sent]] = {}
        for each in sent:
            by_partition.setdefault(partition_of(each.client_id.encode(), NUM_PARTITIONS), []).append(each)
        return [
            Log.of(
                by_partition[partition],
                settings=dataclass_replace(self.settings, profile_idle_s=SETTINGS.profile_idle_s),
                partition=partition,
                markers=lambda: bool(rng.random() < self.marker_share),
            )
            for partition in sorted(by_partition)
        ]


def _drawn(draw: st.DrawFn, number: int) -> list[Choices]:
    return [draw(choices_of_one_event) for _ in range(number)]


def _client(choices: Choices) -> str:
    return choices.sampled(clients_of(choices.sampled(_PARTITIONS))[:2])


def _offset(choices: Choices, *edges_ms: int, least_ms: int = 0) -> int:
    """Return a time after an event: at an edge, just before or after it, or between two edges.

    A negative `least_ms` also gives times before the event.
    """
    between = zip((0, *edges_ms), edges_ms, strict=False)
    kind = choices.sampled((*between, "edge", "edge", "soon", "soon", *(("before",) if least_ms else ())))
    if kind == "edge":
        return max(0, choices.sampled(edges_ms) + choices.sampled((-1, 0, 1)))
    if kind == "soon":
        return choices.sampled((0, 1, 1_000))
    if kind == "before":
        return -choices.integer(0, -least_ms)
    return choices.integer(*kind)


@dataclass(frozen=True)
class _Shown:
    number: int
    client: str
    at_ms: int
    items: list[str]


def _at(event: Event, at_ms: int) -> Event:
    """Return an event at a time after the start of the day."""
    return replace(event, event_ts=event.event_ts + at_ms)


def _lists(blocks: list[Choices]) -> tuple[list[_Shown], list[Event]]:
    shown: list[_Shown] = []
    events: list[Event] = []
    for number, choices in enumerate(blocks):
        if not choices.exists() and shown:
            continue
        client = _client(choices)
        if shown and choices.flag():
            client = shown[-1].client
        at_ms = choices.sampled([0, *(each.at_ms for each in shown)])
        if choices.flag():
            at_ms = choices.integer(0, _SPAN_MS)
        items = choices.samples(ITEMS[:4], 1, 4)
        whole = impression(number, client=client, items=items, currency=choices.sampled(("EUR", "XXX")))
        shown.append(_Shown(number, client, at_ms, items))
        events += [_at(each, at_ms + after_ms) for each, after_ms in _parts(choices, whole)]
    return shown, events


def _parts(choices: Choices, whole: Impression) -> list[tuple[Impression, int]]:
    """Return the parts of a list, or the whole list, with times after the first part: less than a click window.

    Parts may show the same item at one position, and one of them may name no positions.
    """
    items = whole.items
    num_parts = choices.sampled((1, 1, 2, 3))
    if num_parts == 1 or len(items.object_id) == 1:
        return [(whole, 0)]
    places = range(len(items.object_id))
    of_part = [choices.subset(places) for _ in range(num_parts - 1)]
    left = sorted(set(places).difference(*of_part))
    parts = [*of_part, left] if left else of_part
    is_first_whole = choices.flag()
    stretch = choices.sampled((1, 10))
    found = []
    for number, places_of_part in enumerate(parts):
        at = {1 + stretch * place: items.object_id[place] for place in places_of_part}
        shown = part(0, "", at).items
        if is_first_whole and number == 0 and shown.position == [*range(1, len(at) + 1)]:
            shown = replace(shown, position=None)
        after_ms = choices.sampled((0, 1, 1_000, _WINDOW_MS - 1))
        if choices.flag():
            after_ms = choices.integer(0, _WINDOW_MS - 1)
        found.append((replace(whole, event_id=f"{whole.event_id}-{number}", items=shown), after_ms))
    return found


def _named(choices: Choices, on: _Shown, shown: list[_Shown]) -> int | None:
    name = choices.sampled(_NAMED)
    if name == "other":
        return choices.sampled(shown).number
    return on.number if name == "query" else _UNKNOWN_QUERY if name == "unknown" else None


def _happened(draw: st.DrawFn, day: Choices) -> list[Event]:
    """Draw lists, clicks, carts, orders, cancellations and refunds of a few clients; some refer to nothing."""
    shown, events = _lists(_drawn(draw, day.integer(1, 6)))
    times_ms = [0]
    for number, choices in enumerate(_drawn(draw, day.integer(0, 12))):
        if choices.exists():
            clicked, at_ms = _click(choices, number, shown)
            times_ms.append(at_ms)
            events.append(clicked)
    for number, choices in enumerate(_drawn(draw, day.integer(0, 5))):
        if choices.exists():
            events += _order(choices, number, shown, times_ms)
    return events


def _click(choices: Choices, number: int, shown: list[_Shown]) -> tuple[Event, int]:
    """Return a click or cart with its time after the start of the day."""
    on = choices.sampled(shown)
    item = choices.sampled((*on.items, *on.items, "item-unknown"))
    action = choices.sampled(("click", "click", "add_to_cart"))
    # Clocks of one client may differ: a click may seem to come before its list.
    at_ms = on.at_ms + _offset(choices, _WINDOW_MS, _ATTRIBUTION_MS, least_ms=-3_000)
    named = _named(choices, on, shown)
    position = choices.integer(1, 5) if choices.flag() else None
    bare = click(number, named, item, client=on.client, action=action, position=position)
    return _at(bare, at_ms), at_ms


def _order(choices: Choices, number: int, shown: list[_Shown], times_ms: list[int]) -> list[Event]:
    """Return an order and its reversals; the order may have the time of a click."""
    on = choices.sampled(shown)
    bought = choices.samples(on.items, 1, 2)
    at_ms = on.at_ms + _offset(choices, _WINDOW_MS, _ATTRIBUTION_MS)
    at_ms = choices.sampled((at_ms, choices.sampled(times_ms)))
    named, currency = _named(choices, on, shown), choices.sampled(("EUR", "EUR", "USD", "XXX"))
    order = _at(purchase(number, named, bought, client=on.client, currency=currency), at_ms)
    assert isinstance(order, Conversion)
    events: list[Event] = [order]
    for index in range(choices.integer(0, 2)):
        refund = reversal(order, 10 * number + index, after_s=0, action=choices.sampled(("refund", "cancel")))
        events.append(_at(refund, _offset(choices, _REFUND_MS)))
    if choices.flag():
        # A clock may show a refund before its purchase.
        after_ms = _offset(choices, _REFUND_MS, least_ms=-400_000)
        events.append(_at(whole_reversal(order, number, after_s=0), after_ms))
    return events


def _copies(draw: st.DrawFn, day: Choices, events: list[Event], *, restamps_lists: bool) -> list[Event]:
    """Draw copies of some events; the time of a copy may differ, and the copy may come first."""
    copies: list[Event] = []
    for choices in _drawn(draw, day.integer(0, 4)):
        if not choices.exists():
            continue
        event = choices.sampled(events)
        limit_ms = choices.sampled((0, 1, _MAX_RESTAMP_MS))
        by_ms = choices.within(limit_ms) if limit_ms > 1 else limit_ms * choices.sampled((1, -1))
        if isinstance(event, Impression) and not restamps_lists:
            by_ms = 0
        copies.append(replace(event, event_ts=event.event_ts + by_ms))
    return copies


@st.composite
def shop_days(draw: st.DrawFn) -> ShopDay:
    """Draw a day on which every event arrives within the lateness and no limit is reached."""
    choices = draw(choices_of_one_event)
    events = _happened(draw, choices)
    events += _copies(draw, choices, events, restamps_lists=False)
    settings = _settings(choices)
    rng = np.random.default_rng(choices.integer(0, 2**32 - 1))
    sent = [(event, int(rng.integers(MAX_DELAY_MS))) for event in events]
    return ShopDay(sent=sent, settings=settings, marker_share=choices.sampled((0.0, 0.3, 1.0)))


@st.composite
def hostile_days(draw: st.DrawFn, *, evicts: bool = True) -> ShopDay:
    """Draw a day with late events, conflicting lists, clients with too many events, and too little space."""
    choices = draw(choices_of_one_event)
    events = _happened(draw, choices)
    events += _copies(draw, choices, events, restamps_lists=True)
    for event in choices.samples([e for e in events if isinstance(e, Impression)], 0, 2):
        events.append(replace(event, event_id=event.event_id + "-other"))
    warm_max_bytes = choices.sampled((0, 600, 2_000, SETTINGS.warm_max_bytes))
    max_list_events = choices.sampled((1, 3, SETTINGS.max_list_events))
    settings = _settings(
        choices,
        warm_max_bytes=warm_max_bytes if evicts else SETTINGS.warm_max_bytes,
        max_list_events=max_list_events if evicts else SETTINGS.max_list_events,
        max_client_events=choices.sampled((1, 3, 6, SETTINGS.max_client_events)),
        hot_max_bytes=choices.sampled((0, SETTINGS.hot_max_bytes)),
    )
    rng = np.random.default_rng(choices.integer(0, 2**32 - 1))
    late_share = choices.sampled((0.0, 0.2, 0.5))
    delays = [_MAX_LATE_MS if rng.random() < late_share else MAX_DELAY_MS for _ in events]
    sent = [(event, int(rng.integers(limit_ms))) for event, limit_ms in zip(events, delays, strict=True)]
    return ShopDay(sent=sent, settings=settings, marker_share=choices.sampled((0.0, 0.3)))


def _settings(choices: Choices, **limits: int) -> JoinSettings:
    return dataclass_replace(
        SETTINGS,
        **limits,
        ticks=choices.sampled(("driver", "worker")),
        clicks_per_item=choices.sampled((1, 5)),
        profile_idle_s=choices.sampled((SETTINGS.profile_idle_s, 2_419_200)),
        infer_links=choices.sampled((True, True, True, False)),
        ahead_s=choices.sampled((0, 120)),
    )
