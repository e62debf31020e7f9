"""Records of the worker: they hold the content of aiokafka's own, and header names that are no text stop nothing."""

import inspect
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import ConsumerRecord, TopicPartition

from stream.agents import aiokafka_records
from stream.agents.aiokafka_records import FetchedRecord

_UPSTREAM = fetcher.PartitionRecords
_UPSTREAM_MEMORY = fetcher.MemoryRecords
_AT = TopicPartition("clicks", 3)
_NOT_TEXT = b"\xff\xfe\xfd"
_CODECS = {"none": 0, "gzip": 1}
_HEAD_BYTES = 61
_ATTRIBUTES_AT = 21
_CRC_AT = 17
_TRANSACTIONAL = 0x10
_APPEND_TIME = 0x08


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """One record of a batch; the name of its header is bytes, as in Kafka."""

    key: bytes | None = b"key"
    value: bytes | None = b"value"
    timestamp: int = 1_000
    name: bytes | None = None
    content: bytes | None = b"content"


@pytest.fixture
def installed() -> Iterator[None]:
    aiokafka_records.install()
    yield
    fetcher.PartitionRecords = _UPSTREAM
    fetcher.MemoryRecords = _UPSTREAM_MEMORY


def _batch(
    base: int,
    sent: Sequence[_Sent],
    *,
    codec: str = "none",
    hole: int = 0,
    attributes: int = 0,
    producer_id: int = -1,
) -> bytes:
    """Return a batch as a broker hands it out; `hole` records after its last one are compacted away."""
    builder = BatchBuilder(1_000_000, 0)
    for each in sent:
        stand_in = "?" * len(each.name or b"")
        headers = [] if each.name is None else [(stand_in, each.content)]
        builder.append(timestamp=each.timestamp, key=each.key, value=each.value, headers=headers)
    built = bytes(builder._build())
    head, body = bytearray(built[:_HEAD_BYTES]), built[_HEAD_BYTES:]
    for each in sent:
        if each.name is not None:
            body = body.replace(b"?" * len(each.name), each.name, 1)
    body = gzip_encode(body) if codec == "gzip" else body
    struct.pack_into(">q", head, 0, base)
    struct.pack_into(">i", head, 8, _HEAD_BYTES - 12 + len(body))
    struct.pack_into(">hi", head, _ATTRIBUTES_AT, attributes | _CODECS[codec], len(sent) - 1 + hole)
    struct.pack_into(">q", head, 43, producer_id)
    struct.pack_into(">I", head, _CRC_AT, calc_crc32c(bytes(head[_ATTRIBUTES_AT:]) + body))
    return bytes(head) + body


def _partition(
    raw: bytes, start: int = 0, *, kind: type | None = None, aborted: Sequence[tuple[int, int]] = ()
) -> fetcher.PartitionRecords:
    """Return the fetcher's records from the bytes of one partition."""
    isolation = fetcher.READ_COMMITTED if aborted else fetcher.READ_UNCOMMITTED
    made = kind or fetcher.PartitionRecords
    return made(_AT, fetcher.MemoryRecords(raw), list(aborted), start, None, None, True, isolation)


def _read(raw: bytes, start: int = 0, *, aborted: Sequence[tuple[int, int]] = ()) -> list[FetchedRecord]:
    """Return all records from `start` on, having checked the position after each."""
    partition = _partition(raw, start, aborted=aborted)
    found: list[FetchedRecord] = []
    for record in partition:
        assert partition.next_fetch_offset == record.offset + 1
        found.append(record)
    assert next(partition, None) is None, "nothing comes after the end"
    return found


def _expected(base: int, sent: Sequence[_Sent]) -> list[FetchedRecord]:
    return [
        FetchedRecord(
            _AT.topic,
            _AT.partition,
            offset,
            each.timestamp,
            each.key,
            each.value,
            () if each.name is None else ((each.name.decode(errors="backslashreplace"), each.content),),  # type: ignore[arg-type]
        )
        for offset, each in enumerate(sent, base)
    ]


_PLAIN = [
    _Sent(key=b"k", value=b"v", timestamp=1_000, name=b"reason", content=b"r"),
    _Sent(key=b"k", value=None, timestamp=1_001),
    _Sent(key=None, value=b"w", timestamp=999, name=b"", content=None),
    _Sent(key=b"", value=b"x" * 40_000, timestamp=-1, name="größe".encode(), content=b""),
]
_GOOD = _Sent(key=b"good", value=b"{}", timestamp=2_000, name=b"name")
_BAD = _Sent(key=b"bad", value=b"{", timestamp=2_001, name=_NOT_TEXT)
# Bytes that a lax decoder takes for text: a surrogate, and a character spelled longer than it need be.
_BAD_NAMES = [_NOT_TEXT, b"\xed\xa0\x80", b"\xc0\xaf", b"name\xc3", b"\x80" * 300]


@pytest.mark.usefixtures("installed")
def test_same_content_as_upstream() -> None:
    raw = _batch(0, _PLAIN)
    ours, theirs = list(_partition(raw, 1)), list(_partition(raw, 1, kind=_UPSTREAM))
    assert len(ours) == len(theirs) == 3, "the record below the wanted offset is left out"
    for mine, upstream in zip(ours, theirs, strict=True):
        assert isinstance(mine, FetchedRecord)
        assert isinstance(upstream, ConsumerRecord)
        assert all(getattr(mine, name) == getattr(upstream, name) for name in FetchedRecord.__struct_fields__)


@pytest.mark.usefixtures("installed")
def test_headers_come_along() -> None:
    assert _read(_batch(0, _PLAIN))[0].headers == (("reason", b"r"),)


def test_upstream_fails_at_a_name_that_is_no_text() -> None:
    """The reason for the second parser; once this test fails, the parser can go."""
    partition = _partition(_batch(0, [_GOOD, _BAD, _GOOD]))
    assert next(partition).offset == 0
    with pytest.raises(UnicodeDecodeError):
        next(partition)


def test_the_fetcher_looks_its_classes_up_when_it_fetches() -> None:
    source = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "MemoryRecords(part_data[-1])" in source
    assert "PartitionRecords(\n" in source
    # It takes the batches one by one from where the records stand, and may be started again.
    unpack = inspect.getsource(_UPSTREAM._unpack_records)
    assert "records = self._records\n        while records.has_next():" in unpack
    assert "if record.offset < self.next_fetch_offset:" in unpack


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("codec", _CODECS)
@pytest.mark.parametrize("name", _BAD_NAMES)
def test_each_record_comes_once_and_whole(name: bytes, codec: str) -> None:
    """Before, in and after a batch with such names, whichever record of it has them."""
    bad = replace(_BAD, name=name)
    batches = [[_GOOD, _GOOD], [_GOOD, bad, _GOOD, bad], *[[bad]] * 3, [_GOOD], [bad, *_PLAIN], [*_PLAIN, _GOOD]]
    expected: list[FetchedRecord] = []
    made: list[bytes] = []
    for sent in batches:
        # A broker returns whole batches: records of the first one below the wanted offset come with it.
        made += [_batch(len(expected), sent, codec=codec)] * len(sent)
        expected += _expected(len(expected), sent)
    for start in range(len(expected)):
        raw = b"".join(dict.fromkeys(made[start:]))
        assert _read(raw, start) == expected[start:], f"from {start}"


@pytest.mark.usefixtures("installed")
def test_names_stay_apart_and_are_no_names_of_ours() -> None:
    sent = [replace(_BAD, name=name) for name in (b"\xff", b"\xfe", b"attempt\xff")]
    names = [record.headers[0][0] for record in _read(_batch(0, sent))]
    assert names == ["\\xff", "\\xfe", "attempt\\xff"]
    assert all(name.encode() for name in names), "they can be written again"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("attributes", [0, _APPEND_TIME])
def test_the_second_reading_is_that_of_upstream(attributes: int) -> None:
    """All fields, of records that both can read; the last one makes our reading take place."""
    readable = _batch(7, [*_PLAIN, _GOOD], attributes=attributes)
    upstream = list(_partition(readable, kind=_UPSTREAM))
    ours = _read(_batch(7, [*_PLAIN, replace(_GOOD, name=b"\xff\xff\xff\xff")], attributes=attributes))
    found = _read(_batch(7, [replace(_GOOD, name=b"\xff\xff\xff\xff"), *_PLAIN], attributes=attributes))
    assert len(ours) == len(upstream) == 5
    for mine, theirs in zip([*ours[:-1], *found[1:]], [*upstream[:-1], *upstream[:-1]], strict=True):
        names = set(FetchedRecord.__struct_fields__) - {"offset"}
        assert all(getattr(mine, name) == getattr(theirs, name) for name in names)


@pytest.mark.usefixtures("installed")
def test_a_compacted_tail_is_stepped_over() -> None:
    raw = _batch(10, [_GOOD, _BAD], hole=5) + _batch(30, [_GOOD])
    partition = _partition(raw, 10)
    assert [next(partition).offset for _ in range(3)] == [10, 11, 30]
    ended = _partition(_batch(10, [_GOOD, _BAD], hole=5), 10)
    assert [record.offset for record in ended] == [10, 11]
    assert ended.next_fetch_offset == 17
    above = _partition(raw, 12)
    assert [record.offset for record in above] == [30], "the hole itself was wanted"


@pytest.mark.usefixtures("installed")
def test_a_batch_that_ends_below_the_wanted_offset_gives_nothing() -> None:
    assert [each.offset for each in _read(_batch(0, [_BAD]) + _batch(1, [_BAD]) + _batch(2, [_GOOD]), 2)] == [2]


@pytest.mark.usefixtures("installed")
def test_a_batch_that_is_cut_off_is_left_to_the_next_fetch() -> None:
    raw = _batch(0, [_GOOD, _BAD])
    assert [each.offset for each in _read(raw + _batch(2, [_BAD])[:-1])] == [0, 1]


@pytest.mark.usefixtures("installed")
def test_records_of_aborted_transactions_stay_away() -> None:
    raw = b"".join(
        _batch(base, [_BAD, _GOOD], attributes=_TRANSACTIONAL, producer_id=producer)
        for base, producer in ((0, 7), (2, 9), (4, 7), (6, 9))
    )
    assert [each.offset for each in _read(raw, aborted=[(9, 2)])] == [0, 1, 4, 5]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("codec", _CODECS)
def test_damage_is_still_an_error(codec: str) -> None:
    damaged = bytearray(_batch(0, [_BAD, _GOOD], codec=codec))
    damaged[-1] ^= 0xFF
    with pytest.raises(CorruptRecordException, match="CRC"):
        list(_partition(bytes(damaged)))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("size", [b"\x01", b"\x7e", b"\xff" * 11, b"\xfe\xff\xff\xff\x0f"])
def test_a_record_whose_sizes_are_wrong_is_an_error(size: bytes) -> None:
    """The size of a header's name; the batch is read a second time for the record before it."""
    raw = bytearray(_batch(0, [_BAD, replace(_GOOD, value=b"v", name=b"n", content=b"c" * 20)]))
    at = raw.rindex(b"\x02n")
    raw[at : at + len(size)] = size
    struct.pack_into(">I", raw, _CRC_AT, calc_crc32c(bytes(raw[_ATTRIBUTES_AT:])))
    partition = _partition(bytes(raw))
    assert next(partition).offset == 0
    with pytest.raises(CorruptRecordException):
        next(partition)


@pytest.mark.usefixtures("installed")
def test_good_batches_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the batch that needs it is read by the slow reader."""
    read: list[int] = []

    class Counted(aiokafka_records._LenientBatch):
        def __init__(self, raw: bytes) -> None:
            super().__init__(raw)
            read.append(self.base_offset)

    monkeypatch.setattr(aiokafka_records, "_LenientBatch", Counted)
    raw = b"".join(_batch(base, [_BAD if base in {4, 6} else _GOOD, _GOOD]) for base in range(0, 12, 2))
    assert [each.offset for each in _read(raw)] == list(range(12))
    assert read == [4, 6]
