"""The shop in one process: its sessions are those of its shoppers, with the features that serving logs."""

import numpy as np
import pytest

from deploy.simulation.marketplace.in_process import ShopLog, shop
from deploy.simulation.marketplace.market import Market
from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session
from trainer.features import FEATURE_SCHEMA, example_from_session

SETTINGS = MarketplaceSettings(
    hours=0.2,
    rate=600.0,
    clients=60,
    items=200,
    categories=2,
    conversion_boost=4.0,
    chi=0.3,
    other_types=0.3,
    drain_h=2.0,
    concurrency=1,
)


@pytest.fixture(scope="module")
def log() -> ShopLog:
    return shop(Market(SETTINGS), num_shown=40)


def sessions(log: ShopLog) -> dict[str, Session]:
    return {one.query_id: one for _, one in log.records if isinstance(one, Session)}


def test_every_list_becomes_a_session_with_features(log: ShopLog) -> None:
    found = sessions(log)
    assert len(found) > 60
    assert len(log.shown) == 40
    assert {one.feature_schema.hex() for one in found.values()} == {FEATURE_SCHEMA}
    assert all(one.column("rank_in").tolist() == list(range(1, 31)) for one in found.values())
    assert sum(int(one.column("clicks").sum()) for one in found.values()) > 0
    assert sum(int(one.column("orders").sum()) for one in found.values()) > 0
    assert any(one.hist_item for one in found.values()), "clients come back"
    assert [offset for offset, _ in log.records] == list(range(len(log.records)))


def test_a_shown_list_has_the_example_of_its_session(log: ShopLog) -> None:
    catalogue, found = Catalogue(log.items), sessions(log)
    for shown in log.shown[-5:]:
        again = example_from_session(found[shown.example.query_id], catalogue)
        assert again.item_ids == shown.example.item_ids
        np.testing.assert_array_equal(again.num, shown.example.num)
        np.testing.assert_array_equal(again.hist_entity, shown.example.hist_entity)
        item_type = found[shown.example.query_id].item_type
        assert item_type == [catalogue[item_id].type for item_id in again.item_ids]
        assert len(set(item_type)) > 1
        assert shown.listing.search.event_ts == found[shown.example.query_id].impression_ts


def test_launched_items_are_in_the_log(log: ShopLog) -> None:
    ids = [item.item_id for item in log.items]
    assert len(ids) == len(set(ids)) == SETTINGS.items
    assert max(item.updated_ts for item in log.items) > SETTINGS.start_ts
