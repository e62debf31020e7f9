"""kafka-python behind one door: producers, and readers that assign and seek.

No consumer group code lives here: readers carry their own positions, which their owners store with their results.

Source: STREAM.md 2.3 (role and traps of kafka-python 3).
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

from stream.broker.lenient_headers import LenientBuffer
from stream.errors import BusError
from stream.schemas import topics
from stream.schemas.records import Record
from stream.settings import secret

MEMORY_API_VERSION = (2, 3)


class _RecordBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A batch of kafka-python's, which else fails for ever at a header whose name is no UTF-8."""

    _buffer: bytearray

    def _read_msg(self) -> object:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = LenientBuffer(self._buffer)
            return super()._read_msg()


memory_records.DefaultRecordBatch = _RecordBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Which broker to use, and how the local one is set up.

    Attributes:
        broker: `HOST:PORT[,HOST:PORT]`, `local`, `memory`, `memory@HOST:PORT` (hosted by another process), or
            `auto` (local when Java 17+ is there, else memory).
        partitions: Partition count of all topics with client keys; never changed in place.
        port: Port of the local broker, 0 for any free one; its controller listens on the next one.
        heap_mb: Java heap of the local broker.
        jars: Folder of the local broker's jars; empty means `kafka/jars` under the home folder.
        allow_plaintext: Speak without encryption to a broker on another machine.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, for a broker given by address.
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        username: For SASL.
        password: For SASL.
        ca_file: Certificates to trust instead of the system's.
    """

    broker: str = "auto"
    partitions: int = topics.DEFAULT_PARTITIONS
    port: int = 9092
    heap_mb: int = 512
    jars: str = ""
    allow_plaintext: bool = False
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    username: str = ""
    password: str = secret()
    ca_file: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 1_000:
            raise ValueError(f"partitions = {self.partitions}: expected 1 to 1000")
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.username):
            raise ValueError(f"security_protocol = {self.security_protocol}: needs sasl_mechanism and username")

    def security(self) -> "Security":
        """Return how to speak to the broker."""
        return Security(
            protocol=self.security_protocol,
            mechanism=self.sasl_mechanism,
            username=self.username,
            password=self.password,
            ca_file=self.ca_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How clients speak to the broker; the default is plain text, which is right on loopback only."""

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker that has been resolved to an address.

    Attributes:
        bootstrap: `HOST:PORT[,HOST:PORT]`.
        memory: The mock cluster of confluent-kafka, which loses everything on exit.
        security: Encryption and credentials.
    """

    bootstrap: str
    memory: bool = False
    security: Security = Security()

    def client_config(self) -> dict[str, object]:
        """Return the settings every kafka-python client of this broker needs."""
        config: dict[str, object] = {
            "bootstrap_servers": self.bootstrap.split(","),
            # By default a client that was refused for a while notices only after up to 30 s that the broker is back.
            "reconnect_backoff_max_ms": 1_000,
        }
        if self.memory:
            config["api_version"] = MEMORY_API_VERSION
        if self.security.protocol != "PLAINTEXT":
            config["security_protocol"] = self.security.protocol
        if self.security.mechanism:
            config["sasl_mechanism"] = self.security.mechanism
            config["sasl_plain_username"] = self.security.username
            config["sasl_plain_password"] = self.security.password
        if self.security.ca_file:
            config["ssl_cafile"] = self.security.ca_file
        return config


class Producer:
    """An idempotent producer with acks=all; every failure of a send surfaces in `flush` or `close`."""

    def __init__(self, broker: Broker, *, linger_ms: int = 5, request_timeout_ms: int = 30_000) -> None:
        config: dict[str, object] = {
            "acks": "all",
            "linger_ms": linger_ms,
            "request_timeout_ms": request_timeout_ms,
            "delivery_timeout_ms": request_timeout_ms + linger_ms + 1_000,
            "enable_idempotence": not broker.memory,
            **broker.client_config(),
        }
        try:
            self._producer = KafkaProducer(**config)
        except KafkaError as error:
            raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
        self._failures: list[BaseException] = []
        self.num_acknowledged = 0

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Queue one record; without `partition`, murmur2 of the key decides, as everywhere in Shelfwise.

        Raises:
            BusError: If the record is too large or the queue stays full.
        """
        try:
            future = self._producer.send(
                topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
            )
        except (KafkaError, AssertionError) as error:
            raise BusError(f"topic {topic}: {error!r}") from error
        future.add_callback(self._on_acknowledged)
        future.add_errback(self._failures.append)

    def _on_acknowledged(self, _metadata: object) -> None:
        self.num_acknowledged += 1

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all queued records are acknowledged.

        Raises:
            BusError: If one was not; the count and the first reason are named.
        """
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise BusError(f"flush: {error!r}") from error
        if self._failures:
            first, num_failed = self._failures[0], len(self._failures)
            self._failures.clear()
            raise BusError(f"{num_failed} records were not acknowledged, first reason: {first!r}")

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush and close."""
        try:
            self.flush(timeout_s)
        finally:
            self._producer.close(timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reader:
    """Reads assigned partitions from given positions; never commits, never joins a group."""

    def __init__(self, broker: Broker, positions: Mapping[tuple[str, int], int], *, max_records: int = 2_000) -> None:
        """Assign the partitions in `positions` (topic, partition) and seek to their next offsets.

        Raises:
            BusError: If the broker is unreachable.
        """
        self._consumer = _consumer(broker, max_poll_records=max_records)
        self._consumer.assign([TopicPartition(topic, partition) for topic, partition in positions])
        for (topic, partition), offset in positions.items():
            self._consumer.seek(TopicPartition(topic, partition), offset)

    def poll(self, timeout_ms: int = 500) -> list[Record]:
        """Return the next records, in order per partition.

        Raises:
            BusError: If a position lies outside of the log, or the broker refuses.
        """
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms)
        except KafkaError as error:
            raise BusError(f"poll: {error!r}") from error
        return [record for records in polled.values() for record in records]

    def ends(self) -> dict[tuple[str, int], int]:
        """Return the next offset to be written of each assigned partition.

        Raises:
            BusError: If the broker is unreachable.
        """
        try:
            found = self._consumer.end_offsets(list(self._consumer.assignment()))
        except KafkaError as error:
            raise BusError(f"end offsets: {error!r}") from error
        return {(pair.topic, pair.partition): offset for pair, offset in found.items()}

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Stop fetching these partitions until `resume`."""
        self._consumer.pause(*(TopicPartition(*pair) for pair in partitions))

    def resume(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Fetch these partitions again."""
        self._consumer.resume(*(TopicPartition(*pair) for pair in partitions))

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def beginning_offsets(broker: Broker, names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the first offset of every partition of the named topics."""
    return _offsets(broker, names, end=False)


def end_offsets(broker: Broker, names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the next offset to be written of every partition of the named topics."""
    return _offsets(broker, names, end=True)


def append_times(
    broker: Broker, positions: Mapping[tuple[str, int], int], timeout_s: float = 30.0
) -> dict[tuple[str, int], int | None]:
    """Return the timestamps of the records at the given offsets, None where the log has no record at that offset.

    Raises:
        BusError: If an offset lies outside of the log, or the broker is unreachable.
    """
    if not positions:
        return {}
    # Of each partition one batch, the least that a broker answers with.
    consumer = _consumer(broker, max_partition_fetch_bytes=1)
    found: dict[tuple[str, int], int | None] = {}
    deadline = time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(*pair) for pair in positions])
        for pair, offset in positions.items():
            consumer.seek(TopicPartition(*pair), offset)
        while len(found) < len(positions):
            if time.monotonic() > deadline:
                raise BusError(f"no record of {sorted(positions.keys() - found.keys())} within {timeout_s:.0f} s")
            for tp, records in consumer.poll(timeout_ms=500).items():
                pair = (tp.topic, tp.partition)
                if records and pair not in found:
                    found[pair] = records[0].timestamp if records[0].offset == positions[pair] else None
                    consumer.pause(tp)
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
    finally:
        consumer.close()
    return found


def read_to_end(broker: Broker, name: str) -> Iterator[Record]:
    """Yield every record of a topic up to the end offsets seen at the call, in order per partition.

    Raises:
        BusError: If the topic does not exist or the broker is unreachable.
    """
    consumer = _consumer(broker, max_poll_records=5_000)
    try:
        partitions = _partitions(consumer, broker, [name])
        start, end = _pairs(consumer.beginning_offsets(partitions)), _pairs(consumer.end_offsets(partitions))
        open_partitions = {pair for pair, offset in start.items() if offset < end[pair]}
        consumer.assign([TopicPartition(*pair) for pair in open_partitions])
        for pair in open_partitions:
            consumer.seek(TopicPartition(*pair), start[pair])
        while open_partitions:
            for records in consumer.poll(timeout_ms=500).values():
                yield from (r for r in records if r.offset < end[r.topic, r.partition])
            # Positions, not offsets of records, decide: compacted topics and transaction markers leave holes.
            open_partitions = {p for p in open_partitions if consumer.position(TopicPartition(*p)) < end[p]}
    except KafkaError as error:
        raise BusError(f"topic {name}: {error!r}") from error
    finally:
        consumer.close()


def _offsets(broker: Broker, names: Sequence[str], *, end: bool) -> dict[tuple[str, int], int]:
    consumer = _consumer(broker)
    try:
        partitions = _partitions(consumer, broker, names)
        return _pairs(consumer.end_offsets(partitions) if end else consumer.beginning_offsets(partitions))
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
    finally:
        consumer.close()


def _partitions(consumer: KafkaConsumer, broker: Broker, names: Sequence[str]) -> list[TopicPartition]:
    partitions: list[TopicPartition] = []
    for name in names:
        known = consumer.partitions_for_topic(name)
        if not known:
            raise BusError(f"topic {name} does not exist on {broker.bootstrap}; run `shelfwise kafka topics`")
        partitions += [TopicPartition(name, number) for number in sorted(known)]
    return partitions


def _pairs(found: Mapping[TopicPartition, int]) -> dict[tuple[str, int], int]:
    return {(tp.topic, tp.partition): offset for tp, offset in found.items()}


def _consumer(broker: Broker, **config: object) -> KafkaConsumer:
    try:
        return KafkaConsumer(
            **{
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "group_id": None,
                "fetch_max_wait_ms": 100,
                **broker.client_config(),
                **config,
            }
        )
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
