"""The Faust app of a join worker: its settings, its three tables and its one agent.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

import faust

from stream.agents.backpressure import ReadAheadBudget
from stream.agents.faust_app import MicroBatchApp
from stream.agents.faust_table import MicroBatchTable
from stream.agents.settings import WorkerSettings
from stream.broker.admin import partition_counts
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.schemas import topics

# Never reached: `ReadAheadBudget` bounds the bytes that are read ahead.
_BUFFERED_MESSAGES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Functions of the worker that the app calls.

    Attributes:
        consume: The agent.
        on_ready: Called with the generation when the state stores of an assignment are recovered.
        on_failure: Called with an error that must stop the worker.
        new_warm_store: Return an empty warm store for a partition.
    """

    consume: "Callable[[faust.StreamT[bytes]], Awaitable[None]]"
    on_ready: Callable[[int], None]
    on_failure: Callable[[BaseException], None]
    new_warm_store: Callable[[int], MutableMapping[bytes, bytes]]


def build(
    broker: Broker,
    settings: WorkerSettings,
    *,
    num_partitions: int,
    session_s: float,
    folder: Path,
    read_ahead: ReadAheadBudget,
    clock: Callable[[], float],
    hooks: Hooks,
) -> MicroBatchApp:
    """Return an app that is not started; call `upstream.install` before."""
    app = MicroBatchApp(
        settings.group,
        broker=[f"kafka://{address}" for address in broker.bootstrap.split(",")],
        broker_credentials=_credentials(broker),
        store="memory://",
        datadir=str(folder / "faust"),
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=num_partitions,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance or None,
        broker_session_timeout=session_s,
        broker_rebalance_timeout=6.0 if broker.memory else 30.0,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        broker_request_timeout=30.0,
        producer_request_timeout=30.0,
        stream_wait_empty=False,
        stream_buffer_maxsize=_BUFFERED_MESSAGES,
        web_enabled=False,
        autodiscover=False,
    )
    app.read_ahead = read_ahead
    app.clock = clock
    tables = [
        _table(app, name, changelog, num_partitions, hooks.on_failure)
        for name, changelog in zip(("hot", "warm", "progress"), topics.CHANGELOGS, strict=True)
    ]
    tables[1].new_store = hooks.new_warm_store
    app.state_tables = tables
    inputs = _raw_topic(app, *topics.INPUTS, partitions=num_partitions)
    app.agent(inputs, name="join", concurrency=1)(hooks.consume)
    app.on_ready = hooks.on_ready
    return app


def common_partition_count(broker: Broker) -> int:
    """Return the partition count of the topics whose key is the client.

    Raises:
        ConfigError: If a topic is missing, or the counts differ.
    """
    wanted = [topic.name for topic in topics.ALL if topic.by_client]
    counts = partition_counts(broker)
    missing = [name for name in wanted if name not in counts]
    if missing:
        raise ConfigError(
            f"topics {', '.join(missing)} do not exist on {broker.bootstrap}; run `shelfwise kafka topics` first"
        )
    if len({counts[name] for name in wanted}) != 1:
        raise ConfigError(f"topics with client keys must have one partition count, got {counts}")
    return counts[topics.TICKS]


def _raw_topic(app: "faust.App", *names: str, partitions: int, compacting: bool = False) -> "faust.TopicT":
    return app.topic(
        *names,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=partitions,
        compacting=compacting,
    )


def _table(
    app: "faust.App", name: str, changelog: str, partitions: int, on_failure: Callable[[BaseException], None]
) -> MicroBatchTable:
    table = MicroBatchTable(
        app,
        name=name,
        key_type=bytes,
        value_type=bytes,
        partitions=partitions,
        changelog_topic=_raw_topic(app, changelog, partitions=partitions, compacting=True),
        recovery_buffer_size=1,
    )
    table.stores = {}
    table.new_store = lambda _partition: {}
    table.on_failure = on_failure
    app.tables.add(table)
    return table


def _credentials(broker: Broker) -> "faust.auth.Credentials | None":
    security = broker.security
    if security.protocol == "PLAINTEXT":
        return None
    context = security.tls()
    if security.protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=security.username,
        password=security.password,
        mechanism=security.mechanism,
        ssl_context=context if security.protocol == "SASL_SSL" else None,
    )
