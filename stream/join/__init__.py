"""The pure join core of one partition: raw records in, sessions, corrections and side records out.

    join = Join(partition, JoinSettings(), hot, warm, progress, num_partitions)
    effects = join.apply(slice_of_one_topic_partition)

`hot`, `warm` and `progress` map row keys to row values and are changed in place; `effects.hot`, `.warm` and
`.progress` repeat the slice's changes for the changelogs (None deletes). The delivery contract with the adapter is on
`Effects`: send everything, wait until it is confirmed, send `progress`, wait, `join.confirm(effects.slice_number)`,
acknowledge; restart from any commit at or before the last acknowledged slice.

Imports no faust, kafka client, os, time, random or asyncio.

Source: STREAM.md 4 to 9.
"""

from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.schemas.outcomes import FATE_OF_REASON, FATES, Effects, open_count

__all__ = ["FATES", "FATE_OF_REASON", "Effects", "Join", "JoinSettings", "open_count"]
