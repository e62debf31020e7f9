import errno
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


def test_a_batch_that_the_disk_does_not_let_go_is_sent_once(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    spool = Spool(tmp_path, 10_000, metrics)
    for _ in range(3):
        spool.put(BATCH)
    (tmp_path / f"{2:012d}.spool").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(Path, "replace", refuse)
        assert drain(spool) == [BATCH, BATCH]
        assert (spool.oldest(), spool.num_bytes) == (None, 0)
    assert caplog.text.count("Read-only file system") == 3
    assert len(Spool(tmp_path, 10_000, metrics)) == 3


def test_files_of_others_are_left_alone(tmp_path: Path, metrics: Metrics) -> None:
    (tmp_path / "copy.spool").write_bytes(b"?")
    assert Spool(tmp_path, 10_000, metrics).put(BATCH)


def test_a_disk_that_refuses_counts_as_full(tmp_path: Path, metrics: Metrics) -> None:
    spool = Spool(tmp_path / "spool", 10_000, metrics)
    (tmp_path / "spool").rmdir()
    (tmp_path / "spool").write_bytes(b"in the way")
    assert not spool.put(BATCH)
