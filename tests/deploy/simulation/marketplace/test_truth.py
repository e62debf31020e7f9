"""The truth of shown lists, against sums and resamples that are computed here from single lists."""

import numpy as np
import pytest

from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.rankers import Ranked
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import searches
from deploy.simulation.marketplace.truth import Accountant, PairedGain, best_order, describe, percent

SETTINGS = MarketplaceSettings(hours=0.1, clients=300, conversion_boost=4.0)
END_TS = SETTINGS.start_ts + 360_000


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(SETTINGS)


@pytest.fixture(scope="module")
def listings(market: Market) -> list[Listing]:
    return [market.listing(search) for search in searches(market.world)]


def test_a_gain_and_its_error_are_those_of_the_single_lists() -> None:
    rng = np.random.default_rng(3)
    incoming = rng.gamma(2.0, 0.05, 300)
    shown = incoming * rng.lognormal(0.1, 0.5, 300)
    sums = PairedGain()
    for x, y in zip(shown.tolist(), incoming.tolist(), strict=True):
        sums.add(x, y)
    assert sums.lists == 300
    assert sums.gain == pytest.approx(shown.sum() / incoming.sum() - 1, abs=1e-12)
    rows = rng.integers(300, size=(4_000, 300))
    resampled = shown[rows].sum(axis=1) / incoming[rows].sum(axis=1) - 1
    assert sums.standard_error == pytest.approx(resampled.std(), rel=0.06)


def test_sums_of_two_parts_are_those_of_the_whole() -> None:
    first, second, both = PairedGain(), PairedGain(), PairedGain()
    for part, x, y in ((first, 0.25, 0.5), (first, 0.5, 0.25), (second, 1.0, 0.75)):
        part.add(x, y)
        both.add(x, y)
    assert first.plus(second) == both


def test_equal_orders_have_no_gain_and_no_error() -> None:
    sums = PairedGain()
    assert (sums.gain, sums.standard_error) == (None, None)
    for value in (0.1, 0.3, 0.2):
        sums.add(value, value)
    assert sums.gain == 0
    assert sums.standard_error == pytest.approx(0, abs=1e-8)


def test_arms_thirds_and_bounds_are_sums_over_their_lists(market: Market, listings: list[Listing]) -> None:
    books = Accountant(market, SETTINGS.start_ts, END_TS)
    expected = {"as_is": [0.0, 0.0], "best": [0.0, 0.0]}
    third_of_best = [0.0, 0.0, 0.0]
    for number, listing in enumerate(listings):
        arm = ("as_is", "best")[number % 2]
        order = best_order(listing) if arm == "best" else np.arange(30)
        books.add(listing, Ranked(order=order, arm=arm, is_fallback=arm == "as_is"))
        found = market.expect(listing, order)
        expected[arm][0] += found.order
        expected[arm][1] += found.gmv_minor
        if arm == "best":
            third_of_best[(listing.search.event_ts - SETTINGS.start_ts) // 120_000] += found.order
    truth = books.truth
    assert {name: [arm.orders, arm.money.x] for name, arm in truth.arms.items()} == {
        name: pytest.approx(sums) for name, sums in expected.items()
    }
    assert [third.x for third in truth.arms["best"].thirds] == pytest.approx(third_of_best)
    assert truth.arms["as_is"].gain.gain == pytest.approx(0)
    assert truth.arms["as_is"].money.gain == pytest.approx(0)
    money_before = sum(market.expect(each, np.arange(30)).gmv_minor for each in listings[1::2])
    assert truth.arms["best"].money.gain == pytest.approx(expected["best"][1] / money_before - 1)
    assert truth.arms["as_is"].fallbacks == truth.arms["as_is"].queries == truth.arms["as_is"].gain.lists
    assert truth.bounds.incoming == pytest.approx(sum(market.expect(each, np.arange(30)).order for each in listings))
    assert truth.bounds.random < 0.9 * truth.bounds.incoming
    assert truth.bounds.best > 1.3 * truth.bounds.incoming
    assert (truth.arms["best"].gain.gain or 0) > 0.3
    assert truth.versions == []


def test_a_version_is_described_when_the_next_one_ranks(market: Market, listings: list[Listing]) -> None:
    books = Accountant(market, SETTINGS.start_ts, END_TS)
    lines = []
    for number, listing in enumerate(listings[:20]):
        # The third version's first list comes while the second still answers a request in flight.
        version = ("1", "2")[number >= 8] if number not in {12} else "3"
        lines += books.add(listing, Ranked(order=best_order(listing), lineage="armmt", version=version))
    assert [(v.version, v.gain.lists) for v in books.truth.versions] == [("1", 8), ("2", 11), ("3", 1)]
    assert [line[:8] for line in lines] == ["armmt v1", "armmt v2"]
    assert "true orders over the incoming order (s.e. " in lines[0]
    assert lines[0] == describe(books.truth.versions[0])
    assert [line[:8] for line in books.last_lines()] == ["armmt v3"]
    assert books.truth.versions[0].first_ts == listings[0].search.event_ts
    assert books.truth.versions[1].last_ts == listings[19].search.event_ts


def test_a_list_that_no_version_ranked_counts_for_its_arm_alone(market: Market, listings: list[Listing]) -> None:
    books = Accountant(market, SETTINGS.start_ts, END_TS)
    books.add(listings[0], Ranked(order=np.arange(30), arm="armmt", is_fallback=True, lineage="armmt"))
    assert books.truth.versions == []
    assert books.truth.arms["armmt"].fallbacks == 1


def test_percent_has_a_sign() -> None:
    assert [percent(share) for share in (0.141, -0.337, 0.001, None)] == ["+14 %", "-34 %", "0 %", "undefined"]
