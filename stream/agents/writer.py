"""Idempotent producer that writes whole batches to given partitions and waits for their confirmation."""

import asyncio
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.agents.commit_barrier import Row
from stream.broker.connection import explain
from stream.broker.settings import Broker

# Below the broker's default limit of 1 MiB for a batch.
_BATCH_BYTES = 900_000
# A request carries the batches of several partitions.
_LINGER_MS = 5


class BatchWriter:
    """Producer of aiokafka with acks=all: one batch per topic, partition and call where the rows fit."""

    def __init__(self, broker: Broker, *, request_timeout_s: float) -> None:
        self._broker = broker
        self._producer = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap.split(","),
            acks="all",
            enable_idempotence=True,
            max_batch_size=_BATCH_BYTES,
            linger_ms=_LINGER_MS,
            request_timeout_ms=int(request_timeout_s * 1_000),
            **client_security(broker),
        )

    async def start(self) -> None:
        """Connect.

        Raises:
            BusError: If the broker is unreachable or refused.
        """
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise explain(error, self._broker, "producer") from error

    async def stop(self) -> None:
        """Flush and disconnect."""
        await self._producer.stop()

    async def send(self, topic: str, partition: int, rows: Iterable[Row]) -> None:
        """Write `rows` in order and return when the broker has confirmed them.

        Raises:
            KafkaError: If the broker refused a row or did not answer in time.
            ValueError: If a row fits in no batch.
        """
        confirmations: list[asyncio.Future[object]] = []
        batch = self._producer.create_batch()
        for key, value, headers in rows:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                confirmations.append(await self._send(batch, topic, partition))
                batch = self._producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    raise ValueError(f"topic {topic}: a record of {len(value or b'')} bytes fits in no batch")
        if batch.record_count():
            confirmations.append(await self._send(batch, topic, partition))
        for confirmation in confirmations:
            await confirmation

    async def _send(self, batch: object, topic: str, partition: int) -> "asyncio.Future[object]":
        batch.close()  # type: ignore[attr-defined]
        future: asyncio.Future[object] = await self._producer.send_batch(batch, topic, partition=partition)
        return future


def client_security(broker: Broker) -> dict[str, object]:
    """Return the security settings of an aiokafka client for `broker`."""
    security = broker.security
    config: dict[str, object] = {"security_protocol": security.protocol}
    if (context := security.tls()) is not None:
        config["ssl_context"] = context
    if security.mechanism:
        config["sasl_mechanism"] = security.mechanism
        config["sasl_plain_username"] = security.username
        config["sasl_plain_password"] = security.password
    return config
