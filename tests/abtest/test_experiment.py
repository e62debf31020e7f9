from dataclasses import replace

import numpy as np

from abtest import buckets
from abtest.experiment import ActiveExperiment, Arm, Experiment
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
