"""S11: records compressed by a codec that the worker lacks do not stop it: the broker takes them apart."""

from pathlib import Path

import confluent_kafka
import pytest

from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.worker import running, wait_until_committed


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["snappy", "lz4", "zstd"])
def test_s11_codecs_do_not_stop_the_worker(codec: str, fresh_kafka: Broker, tmp_path: Path) -> None:
    settings = {"bootstrap.servers": fresh_kafka.bootstrap, "compression.type": codec, "linger.ms": 500}
    client = confluent_kafka.Producer(settings)
    for _ in range(50):
        client.produce(topics.CLICKS, key=b"client-1", value=b"{" + b"x" * 200)
    assert client.flush(20) == 0
    with running(fresh_kafka, tmp_path / "home") as worker:
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0, worker.log
    assert len(list(read_to_end(fresh_kafka, topics.DEAD_LETTERS))) == 50
