from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from deploy.simulation.marketplace import utility
from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.settings import ClickModelName, MarketplaceSettings
from deploy.simulation.marketplace.traffic import searches

SMALL = MarketplaceSettings(seed=4, hours=4.0, rate=2_000.0, clients=3_000)
# Click share by rank under the logging policy, from the trivago dev file.
CLICK_SHARES = [0.311, 0.105, 0.076, 0.060, 0.052, 0.042, 0.036, 0.035, 0.032, 0.026]


def listings(market: Market, number: int) -> list[Listing]:
    return [market.listing(search) for search in islice(searches(market.world), number)]


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(SMALL)


@pytest.fixture(scope="module")
def shown(market: Market) -> list[Listing]:
    return listings(market, 4_000)


INCOMING = np.arange(SMALL.candidates)


@pytest.mark.slow
def test_click_and_order_shares_are_calibrated(market: Market, shown: list[Listing]) -> None:
    outcomes = [market.respond(listing, INCOMING) for listing in shown]
    clicked = np.mean([bool(outcome.clicks) for outcome in outcomes])
    ordered = np.mean([outcome.order is not None for outcome in outcomes])
    # Three standard errors, widened for the calibration on 400 other lists and clients seen again and again.
    assert clicked == pytest.approx(0.20, abs=0.03)
    assert ordered == pytest.approx(0.03, abs=0.012)


@pytest.mark.slow
def test_truth_is_what_draws_average_to(market: Market, shown: list[Listing]) -> None:
    outcomes = [market.respond(listing, INCOMING) for listing in shown]
    truth = [market.expect(listing, INCOMING) for listing in shown]
    root = np.sqrt(len(shown))
    assert abs(np.mean([bool(o.clicks) for o in outcomes]) - np.mean([t.click for t in truth])) < 4 * 0.4 / root
    assert abs(np.mean([o.order is not None for o in outcomes]) - np.mean([t.order for t in truth])) < 4 * 0.18 / root
    money = np.array([0 if o.order is None else o.order.amount_minor for o in outcomes])
    assert abs(money.mean() - np.mean([t.gmv_minor for t in truth])) < 4 * money.std() / root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cascade", "dcm", "dbn"])
def test_every_click_model_is_calibrated(name: ClickModelName) -> None:
    other = Market(replace(SMALL, click_model=name))
    found = listings(other, 2_000)
    outcomes = [other.respond(listing, INCOMING) for listing in found]
    assert np.mean([bool(o.clicks) for o in outcomes]) == pytest.approx(0.20, abs=0.035)
    assert np.mean([other.expect(listing, INCOMING).order for listing in found]) == pytest.approx(0.03, abs=0.01)


@pytest.mark.slow
def test_click_shares_by_rank_follow_the_measured_ones() -> None:
    clicks = np.zeros(SMALL.candidates)
    for seed in (21, 22):
        other = Market(replace(SMALL, seed=seed, list_ctr=0.5))
        for listing in listings(other, 3_000):
            for click in other.respond(listing, INCOMING).clicks:
                clicks[click.position] += 1
    shares = clicks / clicks.sum()
    assert shares[0] == pytest.approx(CLICK_SHARES[0], abs=0.04)
    assert np.abs(shares[1:10] - CLICK_SHARES[1:]).max() < 0.025


def test_prices_spread_within_a_list_as_measured(market: Market, shown: list[Listing]) -> None:
    spreads = [market.world.items.log_price[listing.candidates.items].std() for listing in shown[:500]]
    assert np.mean(spreads) == pytest.approx(0.41, abs=0.06)


def test_the_same_list_gets_the_same_answer_and_arms_share_their_randomness(
    market: Market, shown: list[Listing]
) -> None:
    again = Market(SMALL)
    reverse = INCOMING[::-1]
    for listing in shown[:200]:
        same = again.listing(listing.search)
        assert same.candidates.items.tolist() == listing.candidates.items.tolist()
        assert again.respond(same, INCOMING) == market.respond(listing, INCOMING)
        # Another order changes who is looked at, not the luck of an item: what the last position got clicked,
        # the first gets as well.
        if any(click.position == SMALL.candidates - 1 for click in market.respond(listing, INCOMING).clicks):
            assert market.respond(listing, reverse).clicks[0].position == 0


def test_the_true_order_beats_the_incoming_one(market: Market, shown: list[Listing]) -> None:
    incoming = [market.expect(listing, INCOMING) for listing in shown[:500]]
    best = [market.expect(listing, np.argsort(-listing.utility_in, kind="stable")) for listing in shown[:500]]
    assert np.mean([t.click for t in best]) > 1.3 * np.mean([t.click for t in incoming])
    assert np.mean([t.order for t in best]) > 1.3 * np.mean([t.order for t in incoming])


def test_conversion_boost_multiplies_the_orders() -> None:
    boosted = Market(replace(SMALL, conversion_boost=3.0))
    truth = [boosted.expect(listing, INCOMING).order for listing in listings(boosted, 1_500)]
    assert np.mean(truth) == pytest.approx(0.09, abs=0.025)


def test_without_its_weight_the_look_does_not_matter(market: Market) -> None:
    listing = market.listing(next(searches(market.world)))
    search = listing.search

    def value(kv: float, *, other_looks: bool) -> list[float]:
        items = market.world.items
        looks = items.look[::-1] if other_looks else items.look
        settings = replace(SMALL, kv=kv)
        world = replace(market.world, settings=settings, items=replace(items, look=looks))
        found = utility.alone(
            world,
            client=search.client,
            text=search.text,
            items=listing.candidates.items,
            relevance_n=listing.candidates.relevance_n,
            at_ts=search.event_ts,
        )
        return [float(v) for v in found]

    assert value(0.0, other_looks=False) == value(0.0, other_looks=True)
    assert value(1.0, other_looks=False) != value(1.0, other_looks=True)


def test_the_worth_of_a_type_is_in_the_utility_and_nothing_else_is() -> None:
    plain, typed = (Market(replace(SMALL, type_worth=worth, other_types=0.4)) for worth in (0.0, 1.0))
    listing = plain.listing(next(searches(plain.world)))
    items, search = listing.candidates.items, listing.search
    first, second = (
        utility.alone(
            market.world,
            client=search.client,
            text=search.text,
            items=items,
            relevance_n=listing.candidates.relevance_n,
            at_ts=search.event_ts,
        )
        for market in (plain, typed)
    )
    kinds = typed.world.items.type[items]
    np.testing.assert_allclose(second - first, typed.world.items.type_worth[items], atol=1e-12)
    assert len(set(np.round(second - first, 9)[kinds > 0])) == len(set(kinds[kinds > 0].tolist()))
    assert not (second - first)[kinds == 0].any()


def test_weights_of_brand_and_fashion(market: Market) -> None:
    listing = market.listing(next(searches(market.world)))
    search, items = listing.search, listing.candidates.items

    def value(**dials: float) -> list[float]:
        world = replace(market.world, settings=replace(SMALL, **dials))  # type: ignore[arg-type]
        found = utility.alone(
            world,
            client=search.client,
            text=search.text,
            items=items,
            relevance_n=listing.candidates.relevance_n,
            at_ts=search.event_ts,
        )
        return [float(v) for v in found]

    truth, clients = market.world.items, market.world.clients
    is_loyal = truth.brand[items] == clients.brand[search.client]
    by_brand = np.subtract(value(loyalty=1.0), value(loyalty=0.0))
    assert by_brand.tolist() == pytest.approx((clients.loyalty[search.client] * is_loyal).tolist())
    by_fashion = np.subtract(value(trend=2.0), value(trend=1.0))
    assert by_fashion.tolist() == pytest.approx(np.subtract(value(trend=1.0), value(trend=0.0)).tolist())
    assert np.abs(by_fashion).max() > 0


@pytest.mark.slow
def test_a_basket_holds_all_that_the_shopper_wants() -> None:
    """As many lists have an order, and orders have more lines and money."""
    dials = replace(SMALL, list_ctr=0.6, cvr=0.4)
    single, basket = Market(dials), Market(replace(dials, basket=True))
    found = listings(single, 1_000)
    alone, filled = ([each.respond(listing, INCOMING).order for listing in found] for each in (single, basket))
    assert [order is None for order in alone] == [order is None for order in filled]
    pairs = [(one.lines, many.lines) for one, many in zip(alone, filled, strict=True) if one and many]
    assert all(len(one) == 1 and {line.item for line in one} <= {line.item for line in many} for one, many in pairs)
    assert max(len(many) for _, many in pairs) > 2
    money = np.array([0 if order is None else order.amount_minor for order in filled])
    truth = np.mean([basket.expect(listing, INCOMING).gmv_minor for listing in found])
    assert abs(money.mean() - truth) < 4 * money.std() / np.sqrt(len(found))


def test_context_by_hand() -> None:
    market = Market(replace(SMALL, rho=0.5))
    truth = market.world.items
    apart = np.eye(3, truth.look.shape[1])
    world = replace(
        market.world,
        items=replace(
            truth,
            look=np.concatenate([apart, truth.look[3:]]),
            log_price=np.log(np.array([1.0, 2.0, 4.0])),
            quality=np.array([0.0, 1.0, -1.0]),
        ),
    )
    numbers = np.array([0, 1, 2])
    ln2 = float(np.log(2))
    assert utility.in_context(world, numbers).tolist() == pytest.approx([0.5 * ln2, 0.0, -0.5 * ln2])
    twins = replace(world, items=replace(world.items, look=np.ones((3, 8))))
    # The second dominates the third (better and cheaper): a decoy. Each has 0, 1, 2 near-duplicates above.
    contrast, decoy, satiation = np.array([ln2, 0, -ln2]), np.array([0.5, 0.5, 0]), np.array([0, 0.4, 0.8])
    assert utility.in_context(twins, numbers).tolist() == pytest.approx((0.5 * (contrast + decoy - satiation)).tolist())
    quiet = replace(world, settings=replace(SMALL, rho=0.0))
    assert utility.in_context(quiet, numbers).tolist() == [0, 0, 0]


def test_refused_dials_are_named() -> None:
    with pytest.raises(ValueError, match=r"p_miss = 1\.5: expected 0\.0 to 1\.0"):
        MarketplaceSettings(p_miss=1.5)
    with pytest.raises(ValueError, match=r"conversion_boost x cvr = 0\.300"):
        MarketplaceSettings(conversion_boost=10)
    with pytest.raises(ValueError, match="items = 100: expected at least"):
        MarketplaceSettings(items=100)
