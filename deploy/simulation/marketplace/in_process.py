"""The log, its join and the features of serving in one process, without a broker: the shop's sessions in one call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from deploy.simulation.marketplace.driver import Driver
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.rankers import Ranked, rank_request
from serving.ranking import rank
from serving.ranking.context import RankContext, identify
from serving.ranking.features import FeatureBuilder
from serving.ranking.impression import impression
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.operations.join_in_memory import LogRecord
from stream.replicas import profiles
from stream.replicas.catalogue import Catalogue
from stream.schemas import session, topics
from stream.schemas.events import Item, Tick, encode
from stream.schemas.session import Progress, Session
from trainer.features import N_MAX, SessionExample

_items = msgspec.json.Decoder(Item)


@dataclass(frozen=True, slots=True)
class ShownList:
    """A list of the shop, with its truth and with its features as served."""

    listing: Listing
    example: SessionExample


@dataclass(slots=True, kw_only=True)
class ShopLog:
    """The sessions of a shop that shows the incoming order.

    Attributes:
        records: Offset and content of the topic `sessions`, of its one partition.
        items: Catalogue records in the order of publication.
        shown: The newest lists, as many as asked for.
    """

    records: list[tuple[int, Session | Progress]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    shown: list[ShownList] = field(default_factory=list)


def shop(market: Market, *, num_shown: int) -> ShopLog:
    """Let shoppers see the incoming order for the market's hours, and return the log.

    Args:
        market: The market.
        num_shown: Newest lists that are returned with their truth.
    """
    found = ShopLog()
    ranker = _Ranker(market, found, num_shown)
    for item in market.shelf.items_at(market.settings.start_ts):
        found.items.append(item)
        ranker.catalogue.put(item)
    log = _Log(ranker, found)
    Driver(market, ranker, log, log).run()
    return found


class _Ranker:
    """The incoming order, with the features that serving would log."""

    def __init__(self, market: Market, found: ShopLog, num_shown: int) -> None:
        self._market = market
        self._found = found
        self._num_shown = num_shown
        self.catalogue = Catalogue()
        self.profiles = profiles.Profiles()
        self._features = FeatureBuilder(self.catalogue, self.profiles, num_scored=N_MAX, query_hash_key=b"")

    def rank(self, listing: Listing) -> Ranked:
        """Return the incoming order with its impression."""
        request = rank_request(self._market, listing)
        identity = identify(
            request, now_ms=listing.search.event_ts, random_bytes=bytes, query_hash_key=b"", trust_event_ts=True
        )
        context = RankContext(request=request, arrival_s=0.0, deadline_s=0.0, identity=identity)
        context.price_minor = self._features.prices(request)
        context.item_types = self._features.types(request)
        context.features = self._features.build(
            request, identity.query_id, identity.event_ts, context.price_minor, context.item_types
        )
        context.items = rank.order(context)
        (example,) = context.features.example.split()
        self._found.shown.append(ShownList(listing, example))
        del self._found.shown[: -self._num_shown]
        return Ranked(order=np.arange(len(context.items)), impression=encode(impression(context, {})))


class _Log:
    """One partition of every topic, joined at each tick."""

    def __init__(self, ranker: _Ranker, found: ShopLog) -> None:
        self._ranker = ranker
        self._found = found
        # Simulated time runs fast; nothing lags here, so nothing is ever held.
        self._join = Join(0, JoinSettings(ticks="driver"), hot={}, warm={}, progress={}, num_partitions=1)
        self._ends: dict[str, int] = {}
        self._waiting: dict[str, list[LogRecord]] = {}
        self._now_ts = 0

    def send(self, topic: str, *, key: bytes, value: bytes, timestamp_ms: int | None = None) -> None:
        """Append one record."""
        if topic == topics.ITEMS:
            item = _items.decode(value)
            self._found.items.append(item)
            self._ranker.catalogue.put(item)
            return
        record = self._record(topic, key, value, timestamp_ms or self._now_ts)
        self._waiting.setdefault(topic, []).append(record)

    def flush(self) -> None:
        """Return at once: every record is in the log."""

    def high_watermarks(self) -> dict[tuple[str, int], int]:
        """Return the ends of the event topics."""
        return {(topic, 0): self._ends.get(topic, 0) for topic in topics.EVENT_TOPICS}

    def tick(self, now_ts: int, high: Mapping[tuple[str, int], int]) -> None:
        """Join what was appended, and then the tick."""
        self._now_ts = now_ts
        for topic in topics.EVENT_TOPICS:
            self._apply(self._waiting.pop(topic, ()))
        ends = {topic: end for (topic, _), end in high.items()}
        tick = Tick(partition=0, seq=0, worker="memory", hw=ends, now_ts=now_ts)
        self._apply([self._record(topics.TICKS, b"0", encode(tick), now_ts)])

    def _apply(self, records: Iterable[LogRecord]) -> None:
        output = self._join.apply(list(records))
        for _, raw in output.sessions:
            content = session.decode(raw)
            if isinstance(content, Session | Progress):
                self._found.records.append((len(self._found.records), content))
        for _, profile in output.profiles:
            if profile is not None:
                self._ranker.profiles.put(profiles.decode(profile))

    def _record(self, topic: str, key: bytes, value: bytes, timestamp: int) -> LogRecord:
        offset = self._ends.get(topic, 0)
        self._ends[topic] = offset + 1
        return LogRecord(topic, 0, offset, timestamp, key, value)
