"""The trivago benchmark: lists of the hotel-search log, joined by the product's join, and its split by time.

Terms: as of `deploy.simulation.replay.trivago`; research only, never shipped. Events of the log go through the join in
this process, so lists have the features, the history and the labels that a worker would have written. A visit is a test
visit if its first row is on or after 2018-11-08 00:00 UTC, and a validation visit if it is in the four hours before.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from deploy.simulation.replay import trivago
from stream.errors import ConfigError
from stream.operations.join_in_memory import join_in_memory
from stream.replicas.catalogue import Catalogue
from stream.schemas.times import HOUR_MS
from trainer.evaluation.lists import Dataset, from_sessions, split_by_time

SHA256 = "51d6a2b3f8d40ae8b1251e10099f89d6630eec18a34502c83592a96aa4010d1a"
"""The excerpt of 2018-11-07 00:00 to 2018-11-08 12:00 UTC, on which figures were published."""
TEST_FROM_TS = 1_541_635_200_000
VALIDATION_FROM_TS = TEST_FROM_TS - 4 * HOUR_MS


def load(path: Path, *, validation_from_ts: int = VALIDATION_FROM_TS, test_from_ts: int = TEST_FROM_TS) -> Dataset:
    """Return the lists of a log and their split.

    Raises:
        ConfigError: If the file cannot be read, the log does not join, or a part of the split is empty.
    """
    events = list(trivago.load(path))
    joined = join_in_memory(events)
    if joined.num_dead or joined.num_open:
        raise ConfigError(
            f"trivago log '{path}': {joined.num_dead} dead and {joined.num_open} open events after the join"
        )
    lists, rejected = from_sessions(joined.sessions.values(), Catalogue(), visit_starts=trivago.visit_starts(path))
    return Dataset(
        name=f"trivago {path.name}",
        note=f"{_excerpt(path)}; the displayed order stands in for the incoming order;"
        f" {joined.num_unjoined:,} interactions without a list are history and no label",
        split=split_by_time(lists, validation_from_ts, test_from_ts),
        num_rejected=rejected,
    )


def _excerpt(path: Path) -> str:
    digest = sha256(path.read_bytes()).hexdigest()
    return "the published excerpt" if digest == SHA256 else f"another excerpt than the published one ({digest[:16]})"


def is_log(columns: Iterable[str]) -> bool:
    """Return whether a table with these columns is the log."""
    return set(trivago.COLUMNS) <= set(columns)
