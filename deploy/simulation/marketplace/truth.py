"""The truth about shown lists: expected orders and money, without the noise of single shoppers, beside other orders.

Each list is judged in the order shown and in the incoming order, so that a gain compares the same lists. A random order
and the best order by true utility bound what any ranker could reach.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from deploy.simulation.marketplace.market import Expectation, Listing, Market
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.rankers import Ranked
from deploy.simulation.marketplace.world import Ints

# Tells a line about the truth from other progress, for a reader of the log.
MARK = "truth: "


@dataclass(slots=True, kw_only=True)
class PairedGain:
    """Sums over lists of expected orders or money as shown (x) and in the incoming order (y).

    Attributes:
        lists: Number of lists.
        x, y, xx, yy, xy: Sums of the two and of their products.
    """

    lists: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    def add(self, shown: float, incoming: float) -> None:
        """Add one list."""
        self.lists += 1
        self.x += shown
        self.y += incoming
        self.xx += shown * shown
        self.yy += incoming * incoming
        self.xy += shown * incoming

    def plus(self, other: "PairedGain") -> "PairedGain":
        """Return the sums over the lists of both."""
        return PairedGain(
            lists=self.lists + other.lists,
            x=self.x + other.x,
            y=self.y + other.y,
            xx=self.xx + other.xx,
            yy=self.yy + other.yy,
            xy=self.xy + other.xy,
        )

    @property
    def gain(self) -> float | None:
        """Relative difference of the sums; None without an expected order."""
        return self.x / self.y - 1 if self.y > 0 else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of `gain` over lists, by the delta method; None for fewer than two lists.

        Source: Cochran 1977, Sampling Techniques, equation 6.13.
        """
        if self.lists < 2 or self.y <= 0:
            return None
        ratio = self.x / self.y
        squares = self.xx - 2 * ratio * self.xy + ratio * ratio * self.yy
        return math.sqrt(max(squares, 0.0) * self.lists / (self.lists - 1)) / self.y


@dataclass(slots=True, kw_only=True)
class ArmTruth:
    """The truth about the lists shown in one arm.

    Attributes:
        fallbacks: Lists that kept the incoming order because no version ranked them.
        clicked_lists, orders: Expected as shown.
        money: Expected money, minor units, against the incoming order of the same lists.
        thirds: Orders against the incoming order of the same lists, in each third of the time with searches.
    """

    queries: int = 0
    fallbacks: int = 0
    clicked_lists: float = 0.0
    orders: float = 0.0
    money: PairedGain = field(default_factory=PairedGain)
    thirds: list[PairedGain] = field(default_factory=lambda: [PairedGain() for _ in range(3)])

    @property
    def gain(self) -> PairedGain:
        """Orders against the incoming order of the same lists."""
        first, second, last = self.thirds
        return first.plus(second).plus(last)


@dataclass(slots=True, kw_only=True)
class VersionTruth:
    """The truth about the lists that one version ranked."""

    lineage: str
    version: str
    first_ts: int
    last_ts: int
    gain: PairedGain = field(default_factory=PairedGain)


@dataclass(slots=True, kw_only=True)
class Bounds:
    """Expected orders of all lists of the run in three orders.

    Attributes:
        random: In an order drawn at random.
        incoming: In the incoming order.
        best: By true utility, the highest first.
    """

    random: float = 0.0
    incoming: float = 0.0
    best: float = 0.0


@dataclass(slots=True, kw_only=True)
class Truth:
    """The truth about all lists of a run.

    Attributes:
        arms: Arm to its lists; the empty name is traffic outside of experiments.
        versions: Versions in the order in which they first ranked a list.
    """

    arms: dict[str, ArmTruth] = field(default_factory=dict)
    versions: list[VersionTruth] = field(default_factory=list)
    bounds: Bounds = field(default_factory=Bounds)

    def newest(self, lineage: str) -> VersionTruth | None:
        """Return the version of a lineage that came last."""
        return next((version for version in reversed(self.versions) if version.lineage == lineage), None)


class Accountant:
    """Bookkeeper of the truth.

    Args:
        market: The market, which alone knows the truth.
        start_ts, end_ts: Time with searches, which is split into thirds.
    """

    def __init__(self, market: Market, start_ts: int, end_ts: int) -> None:
        self._market = market
        self._start_ts = start_ts
        self._third_ms = max(1, (end_ts - start_ts) // 3)
        self.truth = Truth()

    def add(self, listing: Listing, ranked: Ranked) -> list[str]:
        """Add a shown list; return a line for the version that has just been replaced, if one has."""
        incoming = np.arange(len(ranked.order))
        shown, before = self._market.expect(listing, ranked.order), self._market.expect(listing, incoming)
        self._add_bounds(listing, before)
        arm = self.truth.arms.setdefault(ranked.arm, ArmTruth())
        arm.queries += 1
        arm.fallbacks += ranked.is_fallback
        arm.clicked_lists += shown.click
        arm.orders += shown.order
        arm.money.add(shown.gmv_minor, before.gmv_minor)
        third = min(2, max(0, (listing.search.event_ts - self._start_ts) // self._third_ms))
        arm.thirds[third].add(shown.order, before.order)
        if ranked.lineage is None or ranked.version is None:
            return []
        return self._add_version(ranked.lineage, ranked.version, listing.search.event_ts, shown.order, before.order)

    def _add_version(self, lineage: str, number: str, at_ts: int, shown: float, before: float) -> list[str]:
        # Requests in flight may still be answered by the version before.
        found = [v for v in self.truth.versions if (v.lineage, v.version) == (lineage, number)]
        lines: list[str] = []
        if not found:
            former = self.truth.newest(lineage)
            lines = [describe(former)] if former is not None else []
            found = [VersionTruth(lineage=lineage, version=number, first_ts=at_ts, last_ts=at_ts)]
            self.truth.versions += found
        found[0].last_ts = max(found[0].last_ts, at_ts)
        found[0].gain.add(shown, before)
        return lines

    def _add_bounds(self, listing: Listing, before: Expectation) -> None:
        search, bounds = listing.search, self.truth.bounds
        rng = generator(self._market.settings.seed, "random order", search.client, search.number)
        bounds.random += self._market.expect(listing, rng.permutation(len(listing.utility_in))).order
        bounds.incoming += before.order
        bounds.best += self._market.expect(listing, best_order(listing)).order

    def last_lines(self) -> list[str]:
        """Return a line for the newest version of each lineage."""
        lineages = dict.fromkeys(version.lineage for version in self.truth.versions)
        newest = [self.truth.newest(lineage) for lineage in lineages]
        return [describe(version) for version in newest if version is not None]


def best_order(listing: Listing) -> Ints:
    """Return the candidates by true utility, the highest first."""
    return np.argsort(-listing.utility_in, kind="stable")


def describe(version: VersionTruth) -> str:
    """Return one line on the gain of a version."""
    gain, error = version.gain.gain, version.gain.standard_error
    spread = "" if error is None else f" (s.e. {100 * error:.0f}, {version.gain.lists} lists)"
    return f"{version.lineage} v{version.version}: {percent(gain)} true orders over the incoming order{spread}"


def percent(share: float | None) -> str:
    """Return a share as a signed number of percent.

    >>> percent(0.141), percent(-0.004), percent(None)
    ('+14 %', '0 %', 'undefined')
    """
    if share is None:
        return "undefined"
    rounded = round(100 * share)
    return f"{rounded:+d} %" if rounded else "0 %"
