"""Names, keys and settings of all topics, in one place; `stream.broker.admin` creates and verifies them.

Source: docs/stream.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream.schemas.times import DAY_MS

DEFAULT_PARTITIONS = 12

IMPRESSIONS = "impressions"
CLICKS = "clicks"
CONVERSIONS = "conversions"
TICKS = "ticks"
SESSIONS = "sessions"
UNJOINED = "unjoined"
DEAD_LETTERS = "dead_letters"
ITEMS = "items"
PROFILES = "profiles"
MODEL_VERSIONS = "model_versions"
ANNOTATIONS = "annotations"
HOT_CHANGELOG = "shelfwise-hot-changelog"
WARM_CHANGELOG = "shelfwise-warm-changelog"
PROGRESS_CHANGELOG = "shelfwise-progress-changelog"

EVENT_TOPICS = (IMPRESSIONS, CLICKS, CONVERSIONS)
INPUTS = (*EVENT_TOPICS, TICKS)
CHANGELOGS = (HOT_CHANGELOG, WARM_CHANGELOG, PROGRESS_CHANGELOG)

# Nobody's clock but the broker's: a worker whose clock is wrong would be refused, or its records kept for too long.
_STAMPED = {"message.timestamp.type": "LogAppendTime"}
# Compaction would keep only the newest record of each client, and a limit in bytes would delete records before their
# time.
_WHOLE = _STAMPED | {"cleanup.policy": "delete", "retention.bytes": "-1"}
# Any client may compress by a codec that the workers have no library for.
_INPUT = _WHOLE | {"compression.type": "uncompressed", "retention.ms": str(10 * DAY_MS)}
_OUTPUT = _WHOLE | {"retention.ms": str(28 * DAY_MS)}
# Work of people: no process can make it again, and weights stay a function of the log.
_KEPT = _WHOLE | {"retention.ms": "-1"}
_COMPACT = _STAMPED | {"cleanup.policy": "compact"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic with the settings it is created with; `by_client` topics share one partition count."""

    name: str
    by_client: bool = True
    config: Mapping[str, str] = field(default_factory=dict)


ALL = (
    *(Topic(name=name, config=_INPUT) for name in INPUTS),
    *(Topic(name=name, config=_OUTPUT) for name in (SESSIONS, UNJOINED, DEAD_LETTERS)),
    Topic(name=PROFILES, config=_COMPACT),
    *(Topic(name=name, config=_COMPACT) for name in CHANGELOGS),
    Topic(name=ITEMS, by_client=False, config=_COMPACT),
    Topic(name=MODEL_VERSIONS, by_client=False, config=_COMPACT),
    Topic(name=ANNOTATIONS, by_client=False, config=_KEPT),
)


def partitions_of(topic: Topic, by_client: int) -> int:
    """Return how many partitions `topic` has; those without client keys need only one.

    >>> partitions_of(ALL[0], 12), partitions_of(ALL[-1], 12)
    (12, 1)
    """
    return by_client if topic.by_client else 1
