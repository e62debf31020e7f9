"""The pure join of one partition: raw records in, rows and records out.

    from stream.join.engine import Join

    join = Join(partition, JoinSettings(), hot, warm, progress, num_partitions)
    output = join.apply(records_of_one_topic_and_partition)

`hot`, `warm` and `progress` map row keys to row values; the join changes them in place. `output.hot`, `output.warm` and
`output.progress` repeat the changes of the micro-batch for the changelogs, where None deletes. `MicroBatchOutput`
documents the order of writes. The caller calls `join.confirm(output.batch_number)` when the progress row is stored,
acknowledges the micro-batch after that, and may restart from any commit up to the last acknowledged micro-batch.

Settings are declared in `stream.join.settings`, which every command loads: this file imports nothing, because the
engine needs NumPy.

The package imports no faust, Kafka client, os, time, random or asyncio.

Source: docs/stream.md.
"""
