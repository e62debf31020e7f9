"""An idempotent producer that waits for all in-sync replicas."""

from collections.abc import Iterable
from typing import Self

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.broker.connection import connected, explain
from stream.broker.settings import Broker


class Producer:
    """An idempotent producer with acks=all. `flush` and `close` raise the error of any failed send."""

    def __init__(self, broker: Broker, *, linger_ms: int = 5, request_timeout_ms: int = 30_000) -> None:
        config: dict[str, object] = {
            "acks": "all",
            "linger_ms": linger_ms,
            "request_timeout_ms": request_timeout_ms,
            "delivery_timeout_ms": request_timeout_ms + linger_ms + 1_000,
            "enable_idempotence": not broker.memory,
        }
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
            BusError: If the record is too large, the queue stays full, or the broker refused.
        """
        try:
            future = self._producer.send(
                topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
            )
        except (KafkaError, AssertionError) as error:
            raise explain(error, self._broker, f"topic {topic}") from error
        future.add_errback(self._failures.append)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all queued records are acknowledged.

        Raises:
            BusError: If a record was not acknowledged; the message names the count and the first reason.
        """
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            raise explain(error, self._broker, "flush") from error
        if self._failures:
            first, num_failed = self._failures[0], len(self._failures)
            self._failures.clear()
            raise explain(first, self._broker, f"{num_failed} records were not acknowledged, first reason") from first

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
