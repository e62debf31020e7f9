import sys
from functools import cache

import lightgbm
import numpy as np
import pytest

from stream.errors import ConfigError
from tests.trainer.evaluation import logs
from trainer.evaluation import lightgbm_peer
from trainer.evaluation.evaluate import per_list
from trainer.evaluation.lists import Columns, Split
from trainer.features import NUM_COLUMNS
from trainer.features.hash_index import hash_pairs


@cache
def split() -> Split:
    return logs.split(600)


def fitted(seed: int = 0) -> lightgbm_peer.PeerFit:
    return lightgbm_peer.fit(split().train, split().validation, split().test, from_schema=True, seed=seed, threads=1)


def test_the_peer_learns_what_the_lists_show() -> None:
    assert lightgbm.__version__
    found = fitted()
    assert found.num_trees >= 1
    assert per_list(found.score, Columns.of(split().test, "order", tie_seed=0), 5)["mrr"].mean() > 0.9
    assert (found.score == fitted().score).all()
    assert (found.score != fitted(seed=1).score).any()


def test_columns_add_the_distance_and_the_steps_to_the_last_touched_item() -> None:
    last = NUM_COLUMNS.index("touch_last")
    rank, distance, steps = len(NUM_COLUMNS), len(NUM_COLUMNS) + 1, len(NUM_COLUMNS) + 3
    touched = 0
    for each in split().test:
        example = each.example
        values = lightgbm_peer.columns(example, from_schema=True)
        assert values[:, rank].tolist() == example.rank.tolist()
        history = example.hist_entity[:, 0].tolist()
        for row, item_id in enumerate(example.item_ids):
            (own,) = hash_pairs([item_id]).tolist()
            expected = history.index(own) if own in history else np.nan
            np.testing.assert_equal(float(values[row, steps]), float(expected))
        newest = np.flatnonzero(example.num[:, last])
        touched += newest.size
        if newest.size:
            assert values[:, distance].tolist() == (example.rank - example.rank[newest[0]]).tolist()
        else:
            assert np.isnan(values[:, distance]).all()
    assert touched > 10


def test_columns_of_a_list_follow_its_rows() -> None:
    example = split().test[0].example
    rows = np.arange(8)[::-1].tolist()
    turned = logs.shortened(split().test[0], rows).example
    np.testing.assert_allclose(
        lightgbm_peer.columns(turned, from_schema=True),
        lightgbm_peer.columns(example, from_schema=True)[rows],
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match="lightgbm is not installed: `make setup-extras` installs it"):
        fitted()
