"""Faust's app, which reports when an assignment is ready and is asked about the inputs by the worker.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import logging
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, cast

import faust
from faust.tables.recovery import Recovery
from faust.types import TP

from stream.agents.assignment import Fetched
from stream.agents.backpressure import ReadAheadBudget
from stream.schemas import topics

if TYPE_CHECKING:
    from stream.agents.faust_consumer import MicroBatchConsumer
    from stream.agents.faust_table import MicroBatchTable

log = logging.getLogger("shelfwise.stream")
# Faust logs each start and stop of a service under the module of its class, as if this program did.
FAUST_LOG = logging.getLogger("faust.services")


class MicroBatchApp(faust.App):
    """Faust app that reports when an assignment is ready: recovered, positioned, and not revoked again.

    Attributes:
        on_ready: Called with the generation of an assignment that is ready.
        read_ahead: Budget of input that is read and not acknowledged.
        clock: Monotonic seconds.
        state_tables: Hot, warm and progress table.
        is_ready: Whether inputs may be read.
        assigned_s: Time at which the tables began to recover for the newest assignment.
    """

    on_ready: Callable[[int], None]
    read_ahead: ReadAheadBudget
    clock: Callable[[], float]
    logger = FAUST_LOG
    state_tables: "Sequence[MicroBatchTable]" = ()
    is_ready = False
    assigned_s: float
    _assignment_count = -1

    def on_rebalance_start(self) -> None:
        """Stop reading inputs; the broker has asked for partitions back."""
        self.is_ready = False
        self.read_ahead.close()
        super().on_rebalance_start()

    def on_assigned(self) -> None:
        """Record the rebalance that the tables recover for, and its time."""
        if self._assignment_count != self.rebalancing_count:
            self._assignment_count = self.rebalancing_count
            self.assigned_s = self.clock()

    def on_rebalance_end(self) -> None:
        """Report readiness, unless another rebalance has overtaken this one."""
        super().on_rebalance_end()
        if self._assignment_count != self.rebalancing_count:
            return
        if not self.is_recovered():
            log.warning("a recovery ended that another rebalance had overtaken")
            return
        self.is_ready = True
        self.read_ahead.open()
        for table in self.state_tables:
            table.is_recovering = False
        self.on_ready(self.consumer_generation_id)

    def is_recovered(self) -> bool:
        """Return whether the changelogs of the owned partitions are read to their ends.

        Faust also reports the end of a recovery that another rebalance has overtaken, when the stores are empty again.
        """
        recovery = self.recovery
        offsets, ends = recovery.active_offsets, recovery.active_highwaters
        changelogs = [TP(name, partition) for name in topics.CHANGELOGS for partition in self.owned_partitions()]
        return all(tp in ends and tp in offsets and offsets[tp] >= ends[tp] for tp in changelogs)

    @property
    def recovery(self) -> Recovery:
        """The service that replays the changelogs."""
        found = self.tables.recovery  # type: ignore[attr-defined]  # missing in Faust's interface type
        assert isinstance(found, Recovery)
        return found

    @property
    def num_recovered(self) -> int:
        """Number of changelog records that were replayed since the start."""
        return sum(table.num_recovered for table in self.state_tables)

    @property
    def _inputs(self) -> "MicroBatchConsumer":
        # `upstream.install` has set the class of the consumer.
        return cast("MicroBatchConsumer", self.consumer)

    def owned_partitions(self) -> list[int]:
        """Return the partitions that the group has assigned to this worker."""
        return sorted(tp.partition for tp in self.consumer.assignment() if tp.topic == topics.TICKS)

    def starts(self) -> dict[tuple[str, int], int]:
        """Return the offset from which each owned input partition is read: the commit, or the first one."""
        return {tp: offset for tp, offset in self._inputs.starts.items()}  # noqa: C416 - a dict of tuples, for mypy

    async def end_offsets(self, partitions: Sequence[int]) -> dict[tuple[str, int], int]:
        """Return the last stable offset of each input topic in `partitions`."""
        # For all at once: each request waits behind a fetch.
        inputs = [TP(name, partition) for partition in partitions for name in topics.INPUTS]
        ends = await self.consumer.highwaters(*inputs) if inputs else {}
        return {TP(*tp): end for tp, end in ends.items()}

    async def high_watermarks(self, partitions: Sequence[int]) -> dict[tuple[str, int], int]:
        """Return the end of the log of each input topic in `partitions`, open transactions included."""
        inputs = [TP(name, partition) for partition in partitions for name in topics.INPUTS]
        return {TP(*tp): end for tp, end in (await self._inputs.high_watermarks(inputs)).items()}

    def fetched(self) -> Mapping[tuple[str, int], Fetched]:
        """Return the progress of the consumer in each owned input partition."""
        return {TP(*tp): fetched for tp, fetched in self._inputs.fetched.items()}

    def pause(self, inputs: Collection[tuple[str, int]]) -> None:
        """Stop fetching these input partitions."""
        if inputs:
            self.consumer.pause_partitions({TP(*each) for each in inputs})

    def resume(self, inputs: Collection[tuple[str, int]]) -> None:
        """Fetch these input partitions again."""
        if inputs:
            self.consumer.resume_partitions({TP(*each) for each in inputs})

    def stores_of(
        self, partition: int
    ) -> tuple[MutableMapping[bytes, bytes], MutableMapping[bytes, bytes], MutableMapping[bytes, bytes]]:
        """Return the hot, warm and progress store of a partition."""
        hot, warm, progress = (table.store(partition) for table in self.state_tables)
        return hot, warm, progress

    def drop_stores(self) -> None:
        """Close and forget the state stores of all tables."""
        for table in self.state_tables:
            table.drop_stores()
