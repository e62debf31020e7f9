from collections import Counter
from dataclasses import replace
from itertools import islice
from uuid import UUID

import numpy as np
import pytest

from deploy.simulation.marketplace import shopping
from deploy.simulation.marketplace.market import Market
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.shopping import Sending
from deploy.simulation.marketplace.traffic import searches
from deploy.simulation.marketplace.world import TYPES
from stream.schemas import decode, topics

SETTINGS = MarketplaceSettings(
    seed=6, hours=4.0, rate=2_000.0, clients=3_000, conversion_boost=5.0, refund_share=0.54, duplicates=0.1, late=0.05
)
INCOMING = np.arange(SETTINGS.candidates)


def sent(market: Market, number: int) -> list[Sending]:
    found: list[Sending] = []
    for search in islice(searches(market.world), number):
        outcome = market.respond(market.listing(search), INCOMING)
        found += shopping.sendings(market.settings, search, outcome)
    return found


@pytest.fixture(scope="module")
def sendings() -> list[Sending]:
    return sent(Market(SETTINGS), 3_000)


@pytest.mark.slow
def test_every_record_passes_the_strict_decoder_and_names_its_topic(sendings: list[Sending]) -> None:
    for sending in sendings:
        if sending.topic == topics.CLICKS:
            click = decode.click(sending.value)
            assert click.action_name == sending.kind
            assert click.client_id.encode() == sending.key
            assert click.event_ts <= sending.send_ts
            assert click.event_ts >> 0 == UUID(click.event_id).int >> 80
            assert UUID(click.event_id).version == 7
        else:
            assert sending.topic == topics.CONVERSIONS
            assert decode.conversion(sending.value).action_name == sending.kind


def test_an_impression_passes_the_strict_decoder_and_carries_propensities() -> None:
    market = Market(SETTINGS)
    listing = market.listing(next(searches(market.world)))
    shown = decode.impression(shopping.impression(market, listing, INCOMING[::-1]))
    assert shown.items.rank_in == list(range(SETTINGS.candidates, 0, -1))
    assert shown.items.propensity == listing.candidates.propensity_n[::-1].tolist()
    assert shown.query_id == shopping.query_id(SETTINGS, listing.search)


def test_an_impression_names_types_unless_all_are_products() -> None:
    for share in (0.0, 0.5):
        market = Market(replace(SETTINGS, other_types=share))
        listing = market.listing(next(searches(market.world)))
        shown = decode.impression(shopping.impression(market, listing, INCOMING[::-1])).items
        kinds = market.world.items.type[listing.candidates.items[::-1]].tolist()
        assert shown.type == ([TYPES[kind] for kind in kinds] if share else None)


def test_shares_of_faults_and_refunds(sendings: list[Sending]) -> None:
    firsts = [sending for sending in sendings if not sending.is_copy]
    share = (len(sendings) - len(firsts)) / len(firsts)
    assert share == pytest.approx(0.1, abs=5 * 0.3 / np.sqrt(len(firsts)))
    assert np.mean([s.is_late for s in firsts]) == pytest.approx(0.05, abs=5 * 0.22 / np.sqrt(len(firsts)))
    kinds = Counter(sending.kind for sending in firsts)
    assert kinds["refund"] / kinds["purchase"] == pytest.approx(0.54, abs=5 * 0.5 / np.sqrt(kinds["purchase"]))
    assert kinds["add_to_cart"] / kinds["purchase"] == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(kinds["purchase"]))


def test_a_copy_repeats_the_bytes_of_its_first(sendings: list[Sending]) -> None:
    values = Counter(sending.value for sending in sendings)
    copies = [sending for sending in sendings if sending.is_copy]
    assert copies
    assert all(values[sending.value] == 2 for sending in copies)


def test_a_refund_names_the_order_line_and_follows_it(sendings: list[Sending]) -> None:
    purchases = {}
    for sending in sendings:
        if sending.kind == "purchase":
            event = decode.conversion(sending.value)
            purchases[event.transaction_id] = event
    refunds = [decode.conversion(s.value) for s in sendings if s.kind == "refund"]
    assert refunds
    for refund in refunds:
        bought = purchases[refund.transaction_id]
        assert refund.items == bought.items
        assert refund.event_ts > bought.event_ts


@pytest.mark.slow
def test_event_ids_are_unique_and_repeatable(sendings: list[Sending]) -> None:
    assert [s.value for s in sent(Market(SETTINGS), 300)] == [
        s.value for s in sendings[: len(sent(Market(SETTINGS), 300))]
    ]
    firsts = [s for s in sendings if not s.is_copy]
    assert len({s.value for s in firsts}) == len(firsts)
    other = {s.value for s in sent(Market(replace(SETTINGS, start_ts=SETTINGS.start_ts + 1_000)), 300)}
    assert not other & {s.value for s in sendings}


def test_an_order_line_for_each_item_of_a_basket() -> None:
    market = Market(replace(SETTINGS, basket=True, list_ctr=0.6, cvr=0.1))
    firsts = [s for s in sent(market, 200) if not s.is_copy and s.kind in {"purchase", "refund"}]
    events = [decode.conversion(s.value) for s in firsts]
    assert [s.num_lines for s in firsts] == [len(event.items) for event in events]
    assert max(s.num_lines for s in firsts) > 1
    for event in events:
        assert len({line.line_id for line in event.items}) == len(event.items)
        assert event.value_minor == sum(line.amount_minor for line in event.items)


def test_an_outage_holds_events_until_its_end() -> None:
    calm = replace(SETTINGS, hours=0.5, late=0.0, duplicates=0.0)
    held = replace(calm, outages=2, outage_min=5.0)
    before, after = sent(Market(calm), 1_000), sent(Market(held), 1_000)
    assert [s.value for s in before] == [s.value for s in after]
    delayed = [(b.send_ts, a.send_ts) for a, b in zip(after, before, strict=True) if a.is_late]
    ends = {end_ts for _, end_ts in delayed}
    assert 1 <= len(ends) <= 2
    assert all(0 < end_ts - send_ts <= 5 * 60_000 for send_ts, end_ts in delayed)
    assert [b.send_ts for a, b in zip(after, before, strict=True) if not a.is_late] == [
        a.send_ts for a in after if not a.is_late
    ]
    assert not any(end_ts - 5 * 60_000 <= a.send_ts < end_ts for a in after for end_ts in ends)
