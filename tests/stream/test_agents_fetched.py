"""The worker's own records hold what aiokafka's do."""

from collections.abc import Iterator

import pytest
from aiokafka.consumer import fetcher
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord, TopicPartition

from stream.agents import fetched
from stream.agents.fetched import FetchedRecord

_UPSTREAM = fetcher.PartitionRecords


@pytest.fixture
def installed() -> Iterator[None]:
    fetched.install()
    yield
    fetcher.PartitionRecords = _UPSTREAM


def _records() -> MemoryRecords:
    builder = BatchBuilder(100_000, 0)
    builder.append(timestamp=1_000, key=b"k", value=b"v", headers=[("reason", b"r")])
    builder.append(timestamp=1_001, key=b"k", value=None, headers=[])
    builder.append(timestamp=1_002, key=None, value=b"w", headers=[])
    return MemoryRecords(bytes(builder._build()))


def _read(kind: type, start: int = 1) -> list[object]:
    at = TopicPartition("clicks", 3)
    return list(kind(at, _records(), [], start, None, None, check_crcs=True, isolation_level=fetcher.READ_UNCOMMITTED))


@pytest.mark.usefixtures("installed")
def test_same_content_as_upstream() -> None:
    ours, theirs = _read(fetcher.PartitionRecords), _read(_UPSTREAM)
    assert len(ours) == len(theirs) == 2, "the record below the wanted offset is left out"
    for mine, upstream in zip(ours, theirs, strict=True):
        assert isinstance(mine, FetchedRecord)
        assert isinstance(upstream, ConsumerRecord)
        assert all(getattr(mine, name) == getattr(upstream, name) for name in FetchedRecord.__struct_fields__)


@pytest.mark.usefixtures("installed")
def test_headers_come_along() -> None:
    first = _read(fetcher.PartitionRecords, start=0)[0]
    assert isinstance(first, FetchedRecord)
    assert first.headers == (("reason", b"r"),)
