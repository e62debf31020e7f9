"""The pure join of one partition: raw records in, rows and records out.

    join = Join(partition, JoinSettings(), hot, warm, progress, num_partitions)
    output = join.apply(records_of_one_topic_and_partition)

`hot`, `warm` and `progress` map row keys to row values; the join changes them in place. `output.hot`, `output.warm` and
`output.progress` repeat the changes of the micro-batch for the changelogs, where None deletes. `MicroBatchOutput`
documents the order of writes. The caller calls `join.confirm(output.batch_number)` when the progress row is stored,
acknowledges the micro-batch after that, and may restart from any commit up to the last acknowledged micro-batch.

The package imports no faust, Kafka client, os, time, random or asyncio.

Source: docs/stream.md.
"""

from stream.join.engine import Join
from stream.join.outcome_counters import reason_and_source
from stream.join.output import MicroBatchOutput
from stream.join.settings import JoinSettings
from stream.schemas.outcomes import OUTCOME_OF_REASON, OUTCOMES, open_count

__all__ = [
    "OUTCOMES",
    "OUTCOME_OF_REASON",
    "Join",
    "JoinSettings",
    "MicroBatchOutput",
    "open_count",
    "reason_and_source",
]
