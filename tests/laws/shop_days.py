"""Random days of a shop for the laws of the join: events with delays, transactions, clocks and limits.

Times lie at the edges of windows about as often as inside of them, and often coincide.
"""

from dataclasses import dataclass
from dataclasses import replace as dataclass_replace

import numpy as np
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.broker.partitioner import partition_of
from stream.join import JoinSettings
from stream.schemas.events import Conversion, Impression
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


@st.composite
def _clients(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(clients_of(draw(st.sampled_from(_PARTITIONS)))[:2]))


def _offsets(*edges_ms: int) -> st.SearchStrategy[int]:
    """Return a strategy for times after an event: at an edge, just before or after it, or between two edges."""
    at_edge = st.builds(
        lambda edge_ms, by_ms: max(0, edge_ms + by_ms), st.sampled_from(edges_ms), st.sampled_from((-1, 0, 1))
    )
    between = [st.integers(low, high) for low, high in zip((0, *edges_ms), edges_ms, strict=False)]
    return st.one_of(between[0], at_edge, *between, st.sampled_from((0, 1, 1_000)))


@dataclass(frozen=True)
class _Shown:
    number: int
    client: str
    at_ms: int
    items: list[str]


def _at(event: Event, at_ms: int) -> Event:
    """Return an event at a time after the start of the day."""
    return replace(event, event_ts=event.event_ts + at_ms)


@st.composite
def _lists(draw: st.DrawFn) -> tuple[list[_Shown], list[Event]]:
    shown: list[_Shown] = []
    events: list[Event] = []
    client = draw(_clients())
    for number in range(draw(st.integers(1, 6))):
        client = draw(st.one_of(st.just(client), _clients()))
        at_ms = draw(st.one_of(st.sampled_from([0, *(each.at_ms for each in shown)]), st.integers(0, _SPAN_MS)))
        items = draw(st.lists(st.sampled_from(ITEMS[:4]), min_size=1, max_size=4))
        currency = draw(st.sampled_from(("EUR", "XXX")))
        shown.append(_Shown(number, client, at_ms, items))
        whole = impression(number, client=client, items=items, currency=currency)
        events += [_at(each, at_ms + after_ms) for each, after_ms in draw(_parts(whole))]
    return shown, events


@st.composite
def _parts(draw: st.DrawFn, whole: Impression) -> list[tuple[Impression, int]]:
    """Draw the parts of a list, or the whole list, with times after the first part: less than a click window.

    Parts may show the same item at one position, and one of them may name no positions.
    """
    items = whole.items
    num_parts = draw(st.sampled_from((1, 1, 2, 3)))
    if num_parts == 1 or len(items.object_id) == 1:
        return [(whole, 0)]
    places = range(len(items.object_id))
    of_part = [sorted(draw(st.sets(st.sampled_from(places), min_size=1))) for _ in range(num_parts - 1)]
    left = sorted(set(places).difference(*of_part))
    parts = [*of_part, left] if left else of_part
    is_first_whole = draw(st.booleans())
    stretch = draw(st.sampled_from((1, 10)))
    found = []
    for number, places_of_part in enumerate(parts):
        at = {1 + stretch * place: items.object_id[place] for place in places_of_part}
        shown = part(0, "", at).items
        if is_first_whole and number == 0 and shown.position == [*range(1, len(at) + 1)]:
            shown = replace(shown, position=None)
        after_ms = draw(st.one_of(st.sampled_from((0, 1, 1_000, _WINDOW_MS - 1)), st.integers(0, _WINDOW_MS - 1)))
        found.append((replace(whole, event_id=f"{whole.event_id}-{number}", items=shown), after_ms))
    return found


def _named(draw: st.DrawFn, query: int, num_lists: int) -> int | None:
    name = draw(st.sampled_from(_NAMED))
    if name == "other":
        return draw(st.integers(0, num_lists - 1))
    return query if name == "query" else _UNKNOWN_QUERY if name == "unknown" else None


@st.composite
def _happened(draw: st.DrawFn) -> list[Event]:
    """Draw lists, clicks, carts, orders, cancellations and refunds of a few clients; some refer to nothing."""
    shown, events = draw(_lists())
    times_ms = [0]
    for number in range(draw(st.integers(0, 12))):
        on = draw(st.sampled_from(shown))
        item = draw(st.sampled_from((*on.items, *on.items, "item-unknown")))
        action = draw(st.sampled_from(("click", "click", "add_to_cart")))
        # Clocks of one client may differ: a click may seem to come before its list.
        at_ms = on.at_ms + draw(st.one_of(_offsets(_WINDOW_MS, _ATTRIBUTION_MS), st.integers(-3_000, 0)))
        times_ms.append(at_ms)
        named, position = _named(draw, on.number, len(shown)), draw(st.one_of(st.none(), st.integers(1, 5)))
        bare = click(number, named, item, client=on.client, action=action, position=position)
        events.append(_at(bare, at_ms))
    for number in range(draw(st.integers(0, 5))):
        on = draw(st.sampled_from(shown))
        bought = draw(st.lists(st.sampled_from(on.items), min_size=1, max_size=2))
        at_ms = on.at_ms + draw(_offsets(_WINDOW_MS, _ATTRIBUTION_MS))
        at_ms = draw(st.sampled_from((at_ms, draw(st.sampled_from(times_ms)))))
        named, currency = _named(draw, on.number, len(shown)), draw(st.sampled_from(("EUR", "EUR", "USD", "XXX")))
        order = _at(purchase(number, named, bought, client=on.client, currency=currency), at_ms)
        assert isinstance(order, Conversion)
        events.append(order)
        for index in range(draw(st.integers(0, 2))):
            action = draw(st.sampled_from(("refund", "cancel")))
            refund = reversal(order, 10 * number + index, after_s=0, action=action)
            events.append(_at(refund, draw(_offsets(_REFUND_MS))))
        if draw(st.booleans()):
            # A clock may show a refund before its purchase.
            after_ms = draw(st.one_of(_offsets(_REFUND_MS), st.integers(-400_000, 0)))
            events.append(_at(whole_reversal(order, number, after_s=0), after_ms))
    return events


@st.composite
def _copies(draw: st.DrawFn, events: list[Event], *, restamps_lists: bool) -> list[Event]:
    """Draw copies of some events; the time of a copy may differ, and the copy may come first."""
    copies: list[Event] = []
    for event in draw(st.lists(st.sampled_from(events), max_size=4)):
        by_ms = draw(st.one_of(st.just(0), st.sampled_from((-1, 1)), st.integers(-_MAX_RESTAMP_MS, _MAX_RESTAMP_MS)))
        if isinstance(event, Impression) and not restamps_lists:
            by_ms = 0
        copies.append(replace(event, event_ts=event.event_ts + by_ms))
    return copies


@st.composite
def shop_days(draw: st.DrawFn) -> ShopDay:
    """Draw a day on which every event arrives within the lateness and no limit is reached."""
    events = draw(_happened())
    events += draw(_copies(events, restamps_lists=False))
    settings = _settings(draw, warm_max_bytes=SETTINGS.warm_max_bytes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sent = [(event, int(rng.integers(MAX_DELAY_MS))) for event in events]
    return ShopDay(sent=sent, settings=settings, marker_share=draw(st.sampled_from((0.0, 0.3, 1.0))))


@st.composite
def hostile_days(draw: st.DrawFn, *, evicts: bool = True) -> ShopDay:
    """Draw a day with late events, conflicting lists, clients with too many events, and too little space."""
    events = draw(_happened())
    events += draw(_copies(events, restamps_lists=True))
    for event in draw(st.lists(st.sampled_from([e for e in events if isinstance(e, Impression)]), max_size=2)):
        events.append(replace(event, event_id=event.event_id + "-other"))
    settings = _settings(
        draw,
        warm_max_bytes=draw(st.sampled_from((0, 600, 2_000, SETTINGS.warm_max_bytes)))
        if evicts
        else SETTINGS.warm_max_bytes,
        max_client_events=draw(st.sampled_from((1, 3, 6, SETTINGS.max_client_events))),
        max_list_events=draw(st.sampled_from((1, 3, SETTINGS.max_list_events))) if evicts else SETTINGS.max_list_events,
        hot_max_bytes=draw(st.sampled_from((0, SETTINGS.hot_max_bytes))),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    late_share = draw(st.sampled_from((0.0, 0.2, 0.5)))
    delays = [_MAX_LATE_MS if rng.random() < late_share else MAX_DELAY_MS for _ in events]
    sent = [(event, int(rng.integers(limit_ms))) for event, limit_ms in zip(events, delays, strict=True)]
    return ShopDay(sent=sent, settings=settings, marker_share=draw(st.sampled_from((0.0, 0.3))))


def _settings(draw: st.DrawFn, **limits: int) -> JoinSettings:
    chosen = {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__} | limits
    chosen["ticks"] = draw(st.sampled_from(("driver", "worker")))
    chosen["clicks_per_item"] = draw(st.sampled_from((1, 5)))
    chosen["profile_idle_s"] = draw(st.sampled_from((SETTINGS.profile_idle_s, 2_419_200)))
    chosen["infer_links"] = draw(st.sampled_from((True, True, True, False)))
    chosen["ahead_s"] = draw(st.sampled_from((0, 120)))
    return JoinSettings(**chosen)
