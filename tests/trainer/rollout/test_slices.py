from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from abtest import buckets
from trainer.rollout.slices import CANARY, CONTROL, num_places, salt, slice_of

SHARES = (0.0, 0.005, 0.01, 0.05, 1.0)
"""Growing shares of one canary."""


def test_golden_slices() -> None:
    clients = [f"c-{k}" for k in range(200)]
    key = salt("prm", 7)
    assert [client for client in clients if slice_of(client, key, 0.02) == CANARY] == ["c-1", "c-43", "c-149"]
    assert [client for client in clients if slice_of(client, key, 0.02) == CONTROL] == ["c-177"]


def test_r9_growing_shares_are_nested() -> None:
    """A client enters the canary of a version once, and leaves it by its end only."""
    key = salt("prm", 7)
    for client in (f"client-{k}" for k in range(5_000)):
        found = [slice_of(client, key, share) == CANARY for share in SHARES]
        assert found == sorted(found)
        assert (found[0], found[-1]) == (False, True)


def test_canary_and_control_are_equal_and_apart_up_to_one_half() -> None:
    key = salt("prm", 7)
    places = {buckets.bucket(client, key): client for client in (f"client-{k}" for k in range(150_000))}
    assert len(places) == buckets.NUM_BUCKETS
    for share in (0.00001, 0.0005, 0.01, 0.3333, 0.5):
        counts = Counter(slice_of(client, key, share) for client in places.values())
        assert counts[CANARY] == counts[CONTROL] == num_places(share)
    assert Counter(slice_of(client, key, 1.0) for client in places.values()) == {CANARY: buckets.NUM_BUCKETS}


@pytest.fixture(scope="module")
def places() -> dict[str, NDArray[np.int64]]:
    """The places of 200,000 clients by version, and their buckets in a layer."""
    keys = {"prm/7": salt("prm", 7), "prm/8": salt("prm", 8), "armmt/7": salt("armmt", 7), "layer": "ranker-2026q1"}
    clients = [f"client-{k}" for k in range(200_000)]
    return {name: np.array([buckets.bucket(client, key) for client in clients]) for name, key in keys.items()}


@pytest.mark.slow
def test_r9_places_are_even(places: dict[str, NDArray[np.int64]]) -> None:
    for found in places.values():
        assert stats.chisquare(np.bincount(found, minlength=buckets.NUM_BUCKETS)).pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("other", ["prm/8", "armmt/7", "layer"])
def test_r9_slices_are_independent_of_arms_and_of_other_versions(
    places: dict[str, NDArray[np.int64]], other: str
) -> None:
    def part(found: NDArray[np.int64]) -> NDArray[np.int64]:
        size = num_places(0.05)
        return np.minimum(found // size, 2)

    arm = places["layer"] * 20 // buckets.NUM_BUCKETS if other == "layer" else part(places[other])
    table = np.zeros((3, arm.max() + 1))
    np.add.at(table, (part(places["prm/7"]), arm), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4
