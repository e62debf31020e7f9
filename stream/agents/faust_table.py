"""Faust's table, whose rows lie in one state store per partition and are recovered in micro-batches.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence

import faust
from faust.types import TP, EventT
from faust.types.tuples import Message

from stream.agents.faust_app import FAUST_LOG, MicroBatchApp
from stream.agents.stores import WarmStore
from stream.schemas.records import Record


class MicroBatchTable(faust.Table[bytes, bytes]):
    """Table with a changelog whose rows lie in one state store per partition, recovered a micro-batch at a time.

    The join writes the stores itself, and the commit barrier writes the changelog. Faust decides which partitions this
    worker owns and replays their changelogs. Each assignment starts from empty stores.

    Attributes:
        stores: State store of each partition.
        new_store: Return an empty store for a partition.
        on_failure: Called with an error that must stop the worker.
        is_recovering: Whether changelog records are applied.
        num_recovered: Number of changelog records that were applied.
    """

    stores: MutableMapping[int, MutableMapping[bytes, bytes]]
    new_store: Callable[[int], MutableMapping[bytes, bytes]]
    on_failure: Callable[[BaseException], None]
    logger = FAUST_LOG
    is_recovering: bool = False
    num_recovered: int = 0

    def store(self, partition: int) -> MutableMapping[bytes, bytes]:
        """Return the store of `partition`; create it at the first call."""
        if partition not in self.stores:
            self.stores[partition] = self.new_store(partition)
        return self.stores[partition]

    def drop_stores(self) -> None:
        """Close and forget all stores."""
        for store in self.stores.values():
            if isinstance(store, WarmStore):
                store.close()
        self.stores.clear()

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Start from empty stores, and have Faust read each changelog from its beginning."""
        self.drop_stores()
        self.is_recovering = True
        assert isinstance(self.app, MicroBatchApp)
        self.app.on_assigned()
        topic = self.changelog_topic.get_topic_name()
        recovery = self.app.recovery
        for tp in [tp for tp in recovery.active_offsets if tp.topic == topic]:
            recovery.revoke(tp)
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    def apply_changelog_batch(self, batch: Iterable[EventT[bytes]]) -> None:
        """Apply micro-batches of changelog records in order.

        Faust logs and forgets exceptions raised here, and would then run on half of the rows: they stop the worker.
        """
        try:
            for event in batch:
                self._apply(event.message)
        except Exception as error:  # noqa: BLE001
            self.on_failure(error)

    def _apply(self, message: Message) -> None:
        if not self.is_recovering:
            # A late fetch of records that this worker itself has written: its stores are newer.
            return
        if message.generation_id != self.app.consumer_generation_id:
            raise RuntimeError(
                f"{message.topic}[{message.partition}]: a micro-batch of an older generation in recovery"
            )
        records: Sequence[Record] = message.value  # type: ignore[assignment]  # a micro-batch travels as one value
        store = self.store(message.partition)
        if isinstance(store, WarmStore):
            store.apply({r.key: r.value for r in records if r.key is not None})
        else:
            for record in records:
                if record.key is None:
                    continue
                if record.value is None:
                    store.pop(record.key, None)
                else:
                    store[record.key] = record.value
        self.num_recovered += len(records)
