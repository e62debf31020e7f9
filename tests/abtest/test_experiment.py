from dataclasses import replace

import numpy as np

from abtest import buckets
from abtest.experiment import ActiveExperiment, Arm, Epoch, Experiment, shares_differ
from abtest.plan import Plan

ARMS = (Arm(name="control", lineage="prm-1", is_control=True), Arm(name="treatment", lineage="armmt-1"))


def test_a_client_has_the_arm_of_its_bucket_or_none() -> None:
    table = buckets.allocate("first", (0.5, 0.5), 0.5)
    active = ActiveExperiment(
        experiment="first", layer="ranker", salt="ranker-1", epoch=1, arms=ARMS, table=table, sha256=""
    )
    found = [active.assign(f"client-{number}") for number in range(200)]
    for number, (bucket, arm) in enumerate(found):
        assert bucket == buckets.bucket(f"client-{number}", "ranker-1")
        assert arm == (None if table[bucket] == buckets.UNASSIGNED else ARMS[table[bucket]])
    assert {None if arm is None else arm.name for _, arm in found} == {None, "control", "treatment"}
    everyone = replace(active, table=np.ones_like(table))
    assert everyone.assign("client-1")[1] == ARMS[1]


def test_the_control_is_the_arm_that_says_so() -> None:
    experiment = Experiment(
        key="first",
        layer="ranker",
        salt="ranker-1",
        plan=Plan(),
        spec_hash="",
        status="running",
        decision=None,
        created_ts=0,
        arms=(ARMS[1], ARMS[0]),
    )
    assert experiment.control == ARMS[0]


def test_shares_differ_by_the_buckets_dealt_whatever_their_number() -> None:
    first = Epoch(number=1, start_ts=0, end_ts=1, coverage=0.1, weights=(0.7, 0.3), dealt=(70, 30), sha256="")
    larger = replace(first, number=2, dealt=(7_000, 3_000))
    assert not shares_differ([first, larger])
    assert shares_differ([first, larger, replace(first, number=3, dealt=(71, 30))])
    # An epoch without clients compares nothing.
    assert not shares_differ([first, replace(first, number=2, dealt=(0, 0)), larger])
