"""A pooler in transaction mode shares the server's sessions, and with them the statements that are prepared there."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from abtest.experiment import Arm
from abtest.store import ExperimentStore
from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import StoreError
from tests.harness import pgbouncer
from tests.harness.stores import new_postgres_store
from trainer.versions.registry import Registry

NUM_THREADS = 6
NUM_READS = 60
ARMS = (Arm(name="control", lineage="prm", is_control=True), Arm(name="treatment", lineage="armmt"))

needs_pgbouncer = pytest.mark.skipif(
    pgbouncer.find() is None, reason="pgbouncer is not installed; on Debian: apt-get install pgbouncer"
)


def read_in_threads(engine: Engine) -> Counter[str]:
    """Read as serving does, from several threads, and return the number of reads by their result."""
    experiments, registry = ExperimentStore(engine), Registry(engine)
    reads: tuple[Callable[[], object], ...] = (
        lambda: experiments.active("ranker"),
        lambda: registry.live("prm"),
        lambda: experiments.epochs("first"),
        registry.versions,
        experiments.list,
        registry.lineages,
    )
    results: Counter[str] = Counter()
    lock = threading.Lock()

    def work(thread: int) -> None:
        for number in range(NUM_READS):
            try:
                reads[(thread + number) % len(reads)]()
            except StoreError as error:
                result = "prepared statement" if "prepared statement" in str(error) else str(error)
            else:
                result = "read"
            with lock:
                results[result] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@needs_pgbouncer
@pytest.mark.postgres
def test_every_read_through_a_pooler_succeeds_without_prepared_statements(postgres_url: str) -> None:
    url = new_postgres_store(postgres_url)
    with pgbouncer.transaction_pooler(url) as pooled:
        engine = db.create(pooled, DatabaseSettings(prepare_threshold="off"))
        try:
            ExperimentStore(engine).create(key="first", arms=ARMS, now_ts=1_000)
            assert read_in_threads(engine) == {"read": NUM_THREADS * NUM_READS}
        finally:
            engine.dispose()
