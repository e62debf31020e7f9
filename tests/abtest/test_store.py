from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, update

from abtest.experiment import Arm
from abtest.plan import Plan
from abtest.ramp_store import RampStore
from abtest.store import ExperimentStore
from abtest.tables import epochs
from stream.db import transaction
from stream.errors import ConfigError, StoreError

ARMS = (Arm(name="control", lineage="prm-1", is_control=True), Arm(name="treatment", lineage="armmt-1"))


def test_created_experiment_is_active_and_assigns(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    assert store.active("ranker") is None
    created = store.create(key="first", arms=ARMS, now_ts=1_000, salt="ranker-2026q1", share=0.5)
    active = ExperimentStore(store_engine).active("ranker")
    assert active is not None
    assert (active.experiment, active.salt, active.epoch, active.arms) == ("first", "ranker-2026q1", 1, ARMS)
    assert np.array_equal(active.table, created.table)
    assert active.sha256 == created.sha256
    assert np.bincount(active.table + 1).tolist() == [5_000, 2_500, 2_500]
    number, arm = active.assign("c-1")
    assert number == 6198
    assert arm == (None if active.table[6198] < 0 else ARMS[active.table[6198]])


def test_experiment_reads_back_as_planned(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    plan = Plan(primary="gmv", goals=("gmv", "ctr"), alpha=0.01, mde=0.02, currency="EUR")
    arms = (*ARMS, Arm(name="as_is", policy="incoming_order"))
    store.create(key="first", arms=arms, now_ts=1_000, weights=(0.5, 0.25, 0.25), plan=plan)
    found = store.get("first")
    assert (found.plan, found.arms, found.control, found.status) == (
        replace(plan, hold_out=0.0),
        arms,
        ARMS[0],
        "running",
    )
    (epoch,) = store.epochs("first")
    assert (epoch.number, epoch.start_ts, epoch.end_ts, epoch.weights) == (1, 1_000, None, (0.5, 0.25, 0.25))


def test_stop_frees_the_layer_and_keeps_its_salt(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=1_000, salt="ranker-2026q1")
    with pytest.raises(ConfigError, match="runs experiment 'first'"):
        store.create(key="second", arms=ARMS, now_ts=2_000)
    store.stop("first", now_ts=3_000, decision="no effect")
    store.stop("first", now_ts=4_000, decision="changed my mind")
    assert store.active("ranker") is None
    assert store.get("first").decision == "no effect"
    assert store.epochs("first")[0].end_ts == 3_000
    assert store.create(key="second", arms=ARMS, now_ts=5_000).salt == "ranker-2026q1"
    assert [experiment.key for experiment in store.list()] == ["first", "second"]


def test_the_hold_out_of_a_layer_stays_until_it_is_changed(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    held: list[list[int]] = []
    for number, plan in enumerate((Plan(hold_out=0.02), Plan(), Plan(hold_out=0.01), Plan())):
        created = store.create(key=f"exp-{number}", arms=ARMS, now_ts=1_000 * number + 1, plan=plan)
        assert np.bincount(created.table[created.table >= 0]).tolist() == [4_950 - 50 * (number < 2)] * 2
        held.append(np.flatnonzero(created.table < 0).tolist())
        store.stop(f"exp-{number}", now_ts=1_000 * number + 500, decision="enough")
    assert held == [list(range(9_800, 10_000))] * 2 + [list(range(9_900, 10_000))] * 2
    with pytest.raises(ConfigError, match="arm 'control': 1 of 10000 buckets"):
        store.create(key="tight", arms=ARMS, now_ts=9_000, plan=Plan(hold_out=0.9998))


def test_a_ramp_leaves_the_hold_out_alone(store_engine: Engine) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=1, share=0.1, plan=Plan(hold_out=0.05))
    RampStore(store_engine).set_share("first", 1.0, now_ts=2, reason="all")
    active = ExperimentStore(store_engine).active("ranker")
    assert active is not None
    assert np.flatnonzero(active.table < 0).tolist() == list(range(9_500, 10_000))


def test_a_long_decision_is_refused_by_both_databases(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=1_000)
    with pytest.raises(ConfigError, match="256 characters, expected at most 255"):
        store.stop("first", now_ts=3_000, decision="x" * 256)
    assert store.get("first").status == "running"
    store.stop("first", now_ts=3_000, decision="x" * 255)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_an_arm_of_weight_zero_is_refused(store_engine: Engine, weights: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"'(control|treatment)': 0 of 10000 buckets"):
        ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=1_000, weights=weights)
    assert ExperimentStore(store_engine).list() == []


def test_layers_are_independent(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    assert store.create(key="first", arms=ARMS, now_ts=1_000).salt == "ranker-1"
    assert store.create(key="prices", arms=ARMS, now_ts=1_000, layer="price").salt == "price-1"
    with pytest.raises(ConfigError, match="layer 'ranker' has it"):
        store.create(key="third", arms=ARMS, now_ts=1_000, layer="third", salt="ranker-1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": ""}, "name = ''"),
        ({"key": "-x"}, "name = '-x'"),
        ({"layer": "a b"}, "layer = 'a b'"),
        ({"arms": ARMS[:1]}, "two or more, got 1"),
        ({"arms": (ARMS[0], ARMS[0])}, "names must differ"),
        ({"arms": (ARMS[1], Arm(name="other", lineage="x"))}, "exactly one control, got none"),
        ({"arms": (ARMS[0], Arm(name="other"))}, "either a lineage or a fixed policy"),
        ({"arms": (ARMS[0], Arm(name="other", policy="best"))}, "policy 'best'"),
        ({"share": 0.0}, "coverage = 0.0"),
        ({"share": 0.0001}, "arm 'control': 0 of 10000 buckets"),
        ({"share": 0.004, "weights": (0.99, 0.01)}, "arm 'treatment': 0 of 10000 buckets, expected 10 or more"),
        ({"weights": (0.5, 0.2)}, "weights"),
        (
            {"weights": (0.7, 0.3), "plan": Plan(primary="gmv", cuped_days=14.0)},
            "cuped_days = 14: the arm 'treatment' and the control are further apart than 60 to 40",
        ),
        ({"weights": (1.0,)}, "one for each of 2 arms"),
        ({"salt": "s" * 65}, "64 bytes"),
        ({"salt": ""}, "salt = ''"),
    ],
)
def test_refused_values_are_named(store_engine: Engine, changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"key": "first", "arms": ARMS, "now_ts": 1_000} | changes
    store = ExperimentStore(store_engine)
    with pytest.raises(ConfigError, match=message):
        store.create(**arguments)  # type: ignore[arg-type]
    assert store.list() == []


def test_unknown_experiment_names_the_known(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=1_000)
    with pytest.raises(ConfigError, match="'frist' does not exist; known: first"):
        store.stop("frist", now_ts=2_000)


def test_damaged_allocation_is_refused(store_engine: Engine) -> None:
    store = ExperimentStore(store_engine)
    store.create(key="first", arms=ARMS, now_ts=1_000)
    with transaction(store_engine) as connection:
        connection.execute(update(epochs).values(buckets=bytes(20_000)))
    with pytest.raises(StoreError, match="sha256"):
        store.active("ranker")
