"""The thread in which Faust's consumer talks to the broker: sizes of fetches, committed records only, and positions.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import copy
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.agents.faust_app import FAUST_LOG

FETCH_WAIT_MS = 200
FETCH_BYTES = 8 << 20
FETCH_LEAST_BYTES = 1 << 20


class FetchThread(driver.AIOKafkaConsumerThread):
    """Thread of a consumer that fetches for micro-batches."""

    logger = FAUST_LOG

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust waits 1.5 s in a fetch, and requests for end offsets wait behind it on the same connection.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        # At a moderate pace a fetch would bring a few records, and each micro-batch costs writes to several topics.
        consumer._fetch_min_bytes = FETCH_LEAST_BYTES  # noqa: SLF001
        # aiokafka takes up to 50 MiB at a time, and holds it two or three times over while it is parsed.
        consumer._fetch_max_bytes = FETCH_BYTES  # noqa: SLF001
        # Faust couples it to transactions of its own.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer

    async def high_watermarks(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        """Return the ends of the logs, where a consumer of committed records is told the last stable offsets."""
        ends: Mapping[TP, int] = await self.call_thread(self._high_watermarks, partitions)
        return ends

    async def _high_watermarks(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        uncommitted = copy.copy(consumer._fetcher)  # noqa: SLF001 - the level belongs to the fetcher, not to a request
        uncommitted._isolation_level = aiokafka_fetcher.READ_UNCOMMITTED  # noqa: SLF001
        ends: Mapping[TP, int] = await uncommitted.end_offsets(partitions, consumer._request_timeout_ms)  # noqa: SLF001
        return ends

    def position_of(self, tp: TP) -> int | None:
        """Return the offset of the next fetch, or None while it is unknown; any thread may call it."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment  # noqa: SLF001
        state = assignment.state_value(tp) if assignment is not None else None
        position: int | None = state._position if state is not None else None  # noqa: SLF001
        return position
