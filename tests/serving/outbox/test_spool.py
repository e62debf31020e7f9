from pathlib import Path

import pytest

from serving.metrics import Metrics
from serving.outbox.spool import Spool

BATCH = [(b"c-1", b"x" * 100), (b"c-2", b"y" * 100)]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def drain(spool: Spool) -> list[list[tuple[bytes, bytes]]]:
    found = []
    while batch := spool.oldest():
        found.append(batch[1])
        spool.discard(batch[0])
    return found


def test_batches_come_back_in_order_and_survive_a_restart(tmp_path: Path, metrics: Metrics) -> None:
    first = Spool(tmp_path, 10_000, metrics)
    assert all(first.put([(b"k", bytes([number]))]) for number in range(12))
    second = Spool(tmp_path, 10_000, metrics)
    assert second.put([(b"k", bytes([12]))])
    assert [batch[0][1] for batch in drain(second)] == [bytes([number]) for number in range(13)]
    assert (second.num_bytes, len(second), list(tmp_path.iterdir())) == (0, 0, [])


def test_a_full_spool_refuses_until_there_is_room(tmp_path: Path, metrics: Metrics) -> None:
    spool = Spool(tmp_path, 500, metrics)
    assert [spool.put(BATCH) for _ in range(3)] == [True, True, False]
    assert spool.num_bytes <= 500
    assert len(drain(spool)) == 2
    assert spool.put(BATCH)


def test_a_damaged_batch_is_set_aside_and_counted(tmp_path: Path, metrics: Metrics) -> None:
    spool = Spool(tmp_path, 10_000, metrics)
    spool.put(BATCH)
    spool.put(BATCH)
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    assert drain(spool) == [BATCH]
    assert metrics.registry.get_sample_value("shelfwise_serving_spool_damaged_total") == 1.0
    assert [p.suffix for p in tmp_path.iterdir()] == [".damaged"]


def test_a_disk_that_refuses_counts_as_full(tmp_path: Path, metrics: Metrics) -> None:
    spool = Spool(tmp_path / "spool", 10_000, metrics)
    (tmp_path / "spool").rmdir()
    (tmp_path / "spool").write_bytes(b"in the way")
    assert not spool.put(BATCH)
