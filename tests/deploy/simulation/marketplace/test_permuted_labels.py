"""Labels of simulated sessions that are moved to other items of their list."""

from dataclasses import replace

import numpy as np

from deploy.simulation.marketplace.in_process import shop
from deploy.simulation.marketplace.market import Market
from deploy.simulation.marketplace.permuted_labels import permute_labels
from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.schemas.session import Session

SHOP = MarketplaceSettings(
    rate=600.0, clients=60, items=200, categories=2, list_ctr=0.4, conversion_boost=8.0, drain_h=1.0, concurrency=1
)


def bought_again(session: Session) -> set[str]:
    """Items that a revision says have changed."""
    return {session.item_id[row] for row in session.column("changed")}


def test_outcomes_move_together_and_in_all_revisions_alike() -> None:
    log = shop(Market(replace(SHOP, hours=1.0)), num_shown=1)
    sessions = [one for _, one in log.records if isinstance(one, Session)]
    revised = [one for one in sessions if one.revision and one.reason == "conversion"]
    assert revised
    num_moved = 0
    for before in sessions:
        after = permute_labels(before, 3)
        assert (after.item_id, after.item_f16, after.rank_in) == (before.item_id, before.item_f16, before.rank_in)
        for name in ("clicks", "orders", "gross_minor"):
            assert sorted(after.column(name)) == sorted(before.column(name))
        clicked = np.flatnonzero(before.column("clicks"))
        num_moved += clicked.size > 0 and not np.array_equal(clicked, np.flatnonzero(after.column("clicks")))
    assert num_moved > 0.8 * sum(one.column("clicks").any() for one in sessions)
    for before in revised:
        after = permute_labels(before, 3)
        delays = dict(zip(before.item_id, before.column("order_delay_ms"), strict=True))
        moved = dict(zip(after.item_id, after.column("order_delay_ms"), strict=True))
        assert sorted(moved[item] for item in bought_again(after)) == sorted(
            delays[item] for item in bought_again(before)
        )
        assert all(moved[item] >= 0 for item in bought_again(after)), "a changed item is one that was bought"


def test_another_seed_gives_another_order() -> None:
    log = shop(Market(replace(SHOP, hours=0.2)), num_shown=1)
    session = next(one for _, one in log.records if isinstance(one, Session) and one.column("clicks").any())
    found = {permute_labels(session, seed).clicks for seed in range(8)}
    assert len(found) > 1
    assert permute_labels(session, 3) == permute_labels(session, 3)
