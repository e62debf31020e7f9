"""`shelfwise` with a consumer that never fetches one partition, as fault B14 of Faust causes.

The topic and the partition stand before the arguments of `shelfwise`.
"""

import sys

from faust.transport.consumer import RecordMap
from faust.types import TP

from deploy.cli import main
from stream.agents.faust_consumer import SliceConsumer


def stall(topic: str, partition: int) -> None:
    """Leave the partition out of every fetch of this process."""
    fetch = SliceConsumer._getmany

    async def stalled(self: SliceConsumer, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        return await fetch(self, set(active_partitions or ()) - {TP(topic, partition)}, timeout)

    SliceConsumer._getmany = stalled  # type: ignore[method-assign]


if __name__ == "__main__":
    stall(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    main()
