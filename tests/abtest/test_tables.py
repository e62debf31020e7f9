import pytest
from sqlalchemy import Engine, Table, insert
from sqlalchemy.exc import IntegrityError

from abtest.store import ExperimentStore
from abtest.tables import arms, experiments
from stream import db
from stream.errors import StoreError
from tests.harness.generated_facts import ARMS


def refused(engine: Engine, table: Table, **values: object) -> bool:
    """Return whether the database refuses a row."""
    try:
        with db.transaction(engine) as connection:
            connection.execute(insert(table).values(**values))
    except StoreError as error:
        return isinstance(error.__cause__, IntegrityError)
    return False


@pytest.mark.parametrize(("status", "expected"), [("running", True), ("stopped", False)])
def test_the_database_holds_one_running_experiment_per_layer(
    store_engine: Engine, status: str, *, expected: bool
) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    row = {"key": "second", "layer": "ranker", "salt": "s", "plan": {}, "spec_hash": "", "created_ts": 0}
    assert refused(store_engine, experiments, status=status, **row) == expected


@pytest.mark.parametrize(
    ("lineage", "policy", "expected"),
    [("prm", None, False), (None, "shuffle", False), (None, None, True), ("prm", "shuffle", True)],
)
def test_an_arm_is_a_lineage_or_a_policy(
    store_engine: Engine, lineage: str | None, policy: str | None, *, expected: bool
) -> None:
    ExperimentStore(store_engine).create(key="first", arms=ARMS, now_ts=0)
    row = {"experiment": "first", "number": 2, "name": "third", "is_control": False}
    assert refused(store_engine, arms, lineage=lineage, policy=policy, **row) == expected
