"""`shelfwise` with a consumer that never fetches one partition, as Faust's sometimes stops doing.

The topic and the partition come before the arguments of `shelfwise`.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import sys

from faust.transport.consumer import RecordMap
from faust.types import TP

from deploy.cli import main
from stream.agents.faust_consumer import MicroBatchConsumer


def stall(topic: str, partition: int) -> None:
    """Leave the partition out of every fetch of this process."""
    fetch = MicroBatchConsumer._getmany

    async def stalled(self: MicroBatchConsumer, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        return await fetch(self, set(active_partitions or ()) - {TP(topic, partition)}, timeout)

    MicroBatchConsumer._getmany = stalled  # type: ignore[method-assign]


if __name__ == "__main__":
    stall(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    main()
