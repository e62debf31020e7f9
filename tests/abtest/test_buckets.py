import math
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from abtest import buckets

SALTS = ("ranker-2026q1", "price-2026q1", "a", "b", "layer-1", "layer-2")


@pytest.mark.parametrize(
    ("client", "salt", "expected"),
    [
        ("c-1", "ranker-2026q1", 6198),
        ("c-2", "ranker-2026q1", 8660),
        ("c-3", "ranker-2026q1", 8073),
        ("c-1", "price-2026q1", 1575),
    ],
)
def test_goldens(client: str, salt: str, expected: int) -> None:
    assert buckets.bucket(client, salt) == expected


@pytest.mark.no_cover
def test_sequential_ids_are_uniform_and_salts_independent() -> None:
    numbers = {salt: np.array([buckets.bucket(str(i), salt) for i in range(100_000)]) for salt in SALTS}
    for salt, found in numbers.items():
        counts = np.bincount(found // 100, minlength=100)
        assert stats.chisquare(counts).pvalue > 0.001, salt
    for first, second in combinations(SALTS, 2):
        table = np.zeros((10, 10))
        np.add.at(table, (numbers[first] // 1000, numbers[second] // 1000), 1)
        assert stats.chi2_contingency(table).pvalue > 0.001, (first, second)


@pytest.mark.no_cover
@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.integers(0, 10), min_size=2, max_size=5).filter(any),
    steps=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4).map(sorted),
    salt=st.text(st.characters(codec="ascii"), min_size=1, max_size=8),
)
def test_a_ramp_moves_nobody(weights: list[int], steps: list[float], salt: str) -> None:
    shares = [weight / sum(weights) for weight in weights]
    tables = [buckets.allocate(salt, shares, coverage) for coverage in steps]
    for before, after in pairwise(tables):
        assert buckets.moved(before, after) == 0
        assert np.all(after[before >= 0] == before[before >= 0])


@pytest.mark.parametrize("salt", SALTS)
def test_v7_other_shares_move_the_buckets_of_the_difference_and_no_others(salt: str) -> None:
    before, after = (buckets.allocate(salt, shares, 1.0) for shares in ([0.5, 0.5], [0.6, 0.4]))
    changed = before != after
    assert buckets.moved(before, after) == np.count_nonzero(changed) == 1_000
    assert set(before[changed].tolist()) == {1}
    assert set(after[changed].tolist()) == {0}


_MILLION = """
import sys
import numpy as np
from abtest import buckets
found = np.array([buckets.bucket(f"client-{number}", "ranker-2026q1") for number in range(1_000_000)], np.int16)
sys.stdout.buffer.write(found.tobytes())
"""


@pytest.mark.system
def test_v7_a_million_clients_have_the_same_buckets_in_every_process_and_keep_their_arm() -> None:
    """Python's own hash differs by process, so a bucket must not come from it, nor from an order that depends on it."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _MILLION],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    first, second = (np.frombuffer(child.communicate()[0], np.int16) for child in children)
    assert len(first) == 1_000_000
    np.testing.assert_array_equal(first, second)
    before, after = (buckets.allocate("exp", shares, 1.0)[first] for shares in ([0.5, 0.5], [0.6, 0.4]))
    moved = before != after
    assert moved.mean() == pytest.approx(0.1, abs=0.002)
    assert set(zip(before[moved].tolist(), after[moved].tolist(), strict=True)) == {(1, 0)}
    for arms, shares in ((before, [0.5, 0.5]), (after, [0.6, 0.4])):
        assert stats.chisquare(np.bincount(arms), np.array(shares) * 1_000_000).pvalue > 0.001


def test_full_coverage_gives_every_bucket_to_an_arm_by_weight() -> None:
    table = buckets.allocate("x", [0.2, 0.5, 0.3], 1.0)
    assert np.bincount(table).tolist() == [2_000, 5_000, 3_000]


def test_the_hold_out_is_the_same_in_all_experiments_of_a_layer_and_in_all_their_shares() -> None:
    for key in ("first", "second", "third"):
        tables = [buckets.allocate(key, [0.5, 0.3, 0.2], share, hold_out=0.02) for share in (0.01, 0.5, 1.0)]
        assert all((table[9_800:] == buckets.UNASSIGNED).all() for table in tables)
        assert np.bincount(tables[-1][:9_800]).tolist() == [4_900, 2_940, 1_960]
        assert all(buckets.moved(before, after) == 0 for before, after in pairwise(tables))
    np.testing.assert_array_equal(
        buckets.allocate("first", [0.5, 0.5], 0.3, 0.0), buckets.allocate("first", [0.5, 0.5], 0.3)
    )


def test_order_depends_on_the_experiment() -> None:
    first, second = (buckets.allocate(salt, [0.5, 0.5], 1.0) for salt in ("first", "second"))
    assert 4_700 < np.sum(first == second) < 5_300
    assert buckets.moved(first, second) == 10_000 - np.sum(first == second)
    assert buckets.sha256(first) != buckets.sha256(second)


def test_bytes_round_trip() -> None:
    table = buckets.allocate("x", [0.5, 0.5], 0.3)
    back = buckets.from_bytes(buckets.to_bytes(table))
    assert np.array_equal(table, back)
    assert buckets.sha256(table) == buckets.sha256(back)
    with pytest.raises(ValueError, match="19998 bytes"):
        buckets.from_bytes(buckets.to_bytes(table)[2:])


@pytest.mark.parametrize(
    ("weights", "coverage", "message"),
    [
        ([0.5, 0.4], 1.0, "weights"),
        ([1.5, -0.5], 1.0, "weights"),
        ([math.nan, 0.5], 1.0, "weights"),
        ([0.5, math.nan], 1.0, "weights"),
        ([], 1.0, "weights"),
        ([1.0], 0.0, "coverage"),
    ],
)
def test_refused_values_are_named(weights: list[float], coverage: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        buckets.allocate("x", weights, coverage)


def test_salt_is_limited_by_the_hash() -> None:
    assert buckets.check_salt("s" * 64) == "s" * 64
    for salt in ("", "s" * 65, "ü" * 33):
        with pytest.raises(ValueError, match="64 bytes"):
            buckets.check_salt(salt)


def test_an_arm_with_few_buckets_is_named() -> None:
    table = buckets.allocate("first", (0.5, 0.5), 0.002)
    buckets.check_dealt(table, ("a", "b"))
    table = buckets.allocate("first", (0.9, 0.1), 0.009)
    with pytest.raises(ValueError, match="arm 'b': 9 of 10000 buckets"):
        buckets.check_dealt(table, ("a", "b"))
    with pytest.raises(ValueError, match="arm 'a': 0 of 10000 buckets"):
        buckets.check_dealt(buckets.allocate("first", (0.0, 1.0), 1.0), ("a", "b"))
