"""An idempotent producer that waits for all in-sync replicas."""

from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import RecordMetadata

from stream.broker.connection import Partition, connected, explain
from stream.broker.settings import Broker
from stream.errors import BusError

_INTERRUPTED_S = 5.0
_END_S = 5.0


class RefusedRecordError(BusError):
    """The client refuses one record, for example for its size; the records around it are sent."""


class Producer:
    """An idempotent producer with acks=all. `send`, `flush` and `close` raise the error of any earlier failed send.

    Attributes:
        num_acknowledged: Records that the broker has acknowledged.
        ends: Offset after the newest acknowledged record of each partition.
    """

    def __init__(self, broker: Broker, *, linger_ms: int = 5, request_timeout_ms: int = 30_000) -> None:
        delivery_timeout_ms = request_timeout_ms + linger_ms + 1_000
        config: dict[str, object] = {
            "acks": "all",
            "linger_ms": linger_ms,
            "request_timeout_ms": request_timeout_ms,
            "delivery_timeout_ms": delivery_timeout_ms,
            "max_block_ms": delivery_timeout_ms,
            "enable_idempotence": not broker.memory,
        }
        self.num_acknowledged = 0
        self.ends: dict[Partition, int] = {}
        self._num_queued = 0
        # Beyond the delivery timeout every record has its result, so that the reason is known.
        self._flush_s = delivery_timeout_ms / 1_000 + 5
        self._broker = broker
        self._producer = connected(KafkaProducer, broker, **config)
        self._failures: list[BaseException] = []

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
        """Queue one record. Without `partition`, murmur2 of the key chooses it, as in the join.

        Raises:
            RefusedRecordError: If the client refuses this record.
            BusError: If the queue stays full, or an earlier record was not acknowledged.
        """
        self._raise_failure()
        try:
            future = self._producer.send(
                topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
            )
        except KafkaTimeoutError as error:
            self._raise_failure()
            raise self._failure(error) from error
        except (KafkaError, AssertionError) as error:
            raise RefusedRecordError(str(explain(error, self._broker, f"topic {topic}"))) from error
        self._num_queued += 1
        future.add_callback(self._acknowledge)
        future.add_errback(self._failures.append)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until all queued records are acknowledged.

        Args:
            timeout_s: Longest time; by default the time after which the client gives every record up.

        Raises:
            BusError: If a record was not acknowledged; the message names the counts and the first reason.
        """
        try:
            self._producer.flush(timeout=self._flush_s if timeout_s is None else timeout_s)
        except KafkaError as error:
            self._raise_failure()
            raise self._failure(error) from error
        self._raise_failure()

    def close(self, timeout_s: float | None = None) -> None:
        """Flush and close.

        Raises:
            BusError: If a record was not acknowledged.
        """
        try:
            self.flush(timeout_s)
        finally:
            self._end()

    def _end(self) -> None:
        if not self._num_queued:
            # A forced close would cancel the request for a producer id, which the client logs as fatal.
            self._producer.close(timeout=_END_S)
            return
        # kafka-python's own close waits again for what is in flight, and raises an error of its own over the first.
        sender = self._producer._sender  # noqa: SLF001 - there is no public way to drop records
        sender.force_close()
        sender.join(_END_S)
        with suppress(KafkaError):
            self._producer.close(timeout=0)

    def _acknowledge(self, record: RecordMetadata) -> None:
        self.num_acknowledged += 1
        pair = (record.topic, record.partition)
        self.ends[pair] = max(self.ends.get(pair, 0), record.offset + 1)

    def _raise_failure(self) -> None:
        if self._failures:
            first = self._failures[0]
            self._failures.clear()
            raise self._failure(first) from first

    def _failure(self, error: BaseException) -> BusError:
        counts = f"{self.num_acknowledged} records were acknowledged, {self._num_queued - self.num_acknowledged} not"
        return explain(error, self._broker, counts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an error that is on its way stays the one that the caller sees."""
        if error is None:
            self.close()
        elif isinstance(error, BusError):
            self._end()
        else:
            with suppress(BusError):
                self.close(_INTERRUPTED_S)
