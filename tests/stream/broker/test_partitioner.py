"""The partitioner agrees with Kafka's golden values and with two other implementations."""

import aiokafka.partitioner
import kafka.partitioner
import numpy as np
import pytest

from stream.broker.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_golden_values(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


def test_equals_aiokafka_and_kafka_python() -> None:
    rng = np.random.default_rng(1)
    for length in range(65):
        key = rng.bytes(length)
        assert murmur2(key) & 0x7FFFFFFF == aiokafka.partitioner.murmur2(key) & 0x7FFFFFFF
        assert murmur2(key) & 0x7FFFFFFF == kafka.partitioner.default.murmur2(key) & 0x7FFFFFFF
        assert 0 <= partition_of(key, 12) < 12
