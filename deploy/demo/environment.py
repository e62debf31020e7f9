"""Environment of a demo's processes: a small shop that a learner can improve in three minutes, in simulated time."""

from collections.abc import Mapping

from stream.broker.settings import KafkaSettings
from stream.setting_fields import as_text
from stream.settings import Settings

SHOP: Mapping[str, object] = {
    # Few items and clients: an item is seen often, and clients come back. A visit is short, since searches of one visit
    # say little about an arm: with the default of long visits, lifts of this size are often not significant.
    "marketplace.categories": 2,
    "marketplace.items": 200,
    "marketplace.clients": 800,
    "marketplace.visit_p90": 9.0,
    # Assumptions: shoppers who click and buy more than real ones, so that a short run has labels.
    "marketplace.list_ctr": 0.35,
    "marketplace.conversion_boost": 8.0,
    "marketplace.drain_h": 6.0,
    # Few ticks: each costs every process a round over all partitions, however little has happened.
    "marketplace.tick_s": 60.0,
    # Small steps: with 128 lists a step, a version would rest on a handful of steps.
    "learning.batch": 8,
    "learning.lr": 0.001,
    # An untrained ranker would cost orders: the learned arm keeps the incoming order until its model is ahead.
    "trainer.hold_lists": 20,
    # A version takes seconds here, so serving looks for the next one more often.
    "serving.poll_s": 0.5,
    # A trainer that must go back notices it when it renews its lease.
    "trainer.lease_ttl_s": 6,
    "model.vector_width": 16,
    # The words of the simulated queries are no secret, and the same seed gives models the same numbers of them.
    "privacy.query_hash_key": "demo",
}
"""Defaults of the demo; settings that the caller makes win."""
PARTITIONS = 4
"""Partition count on a Kafka: each partition has ticks and progress records of its own to write and read.

The memory broker keeps 5 MiB of a partition, so there the default of all topics stays.
"""
_HANDED_ON = frozenset({"join", "trainer", "model", "learning", "serving", "marketplace"})


def child_environment(
    settings: Settings, inherited: Mapping[str, str], forced: Mapping[str, object], shop: Mapping[str, object] = SHOP
) -> dict[str, str]:
    """Return the environment of the demo's processes.

    Args:
        settings: Settings of the demo; those of flags are handed on.
        inherited: Environment of the demo.
        forced: Setting to value, as the run needs it.
        shop: Defaults of this run; settings that the caller makes win.
    """
    made = {f"{one.section}.{one.key}": one for one in settings.resolved if one.origin not in {"default", "profile"}}
    chosen = {key: value for key, value in shop.items() if key not in made}
    chosen |= {key: one.value for key, one in made.items() if one.origin == "flag" and one.section in _HANDED_ON}
    return {
        **inherited,
        **{variable(key): as_text(value) for key, value in {**chosen, **forced}.items()},
        # One thread per process: two cores run the whole loop.
        "OMP_NUM_THREADS": "1",
    }


def partitions(settings: Settings) -> int:
    """Return the partition count of the topics on a Kafka; one that the caller chose wins."""
    chosen = [
        one
        for one in settings.resolved
        if (one.section, one.key) == ("kafka", "partitions") and one.origin not in {"default", "profile"}
    ]
    return settings.get("kafka", KafkaSettings).partitions if chosen else PARTITIONS


def variable(key: str) -> str:
    """Return the environment variable of a setting.

    >>> variable("learning.batch")
    'SHELFWISE_LEARNING__BATCH'
    """
    return f"SHELFWISE_{key.replace('.', '__').upper()}"
