import numpy as np
from sqlalchemy import Engine

from abtest.client_vectors import client_vectors
from abtest.metrics import COLUMNS
from stream import db
from tests.harness.generated_facts import arrays, fill, generate


def test_sums_equal_the_generated_truth(store_engine: Engine) -> None:
    sessions, truth = generate(seed=41, num_clients=60)
    fill(store_engine, sessions)
    with db.read(store_engine) as connection:
        vectors = client_vectors(connection, "first", None)
        mature = client_vectors(connection, "first", 1_100)
    for arm, found in vectors.items():
        expected = arrays(truth, arm)
        assert np.array_equal(found[:, :6], expected)
        assert np.array_equal(found[:, 6], expected[:, 4] - expected[:, 5])
    assert {len(vector) for arm in vectors.values() for vector in arm} == {len(COLUMNS)}
    num_mature = sum(session.impression_ts <= 1_100 for session in sessions)
    assert sum(float(arm[:, 0].sum()) for arm in mature.values()) == num_mature


def test_an_unknown_experiment_has_no_clients(store_engine: Engine) -> None:
    with db.read(store_engine) as connection:
        assert client_vectors(connection, "first", None) == {}
