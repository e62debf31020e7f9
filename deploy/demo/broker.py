"""Broker of the demo: one of its own under the demo's folder, or the one that is configured."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deploy.configuration import Context
from deploy.demo.environment import partitions
from deploy.kafka import choice as brokers
from deploy.kafka.local import LocalKafka
from deploy.kafka.settings import LocalKafkaSettings
from stream.broker.admin import create_topics
from stream.broker.settings import Broker, KafkaSettings


class DemoBroker:
    """The broker while the demo runs.

    Attributes:
        num_partitions: Partition count of the topics, known when the broker has started.
    """

    def __init__(self, context: Context, home: Path, report: Callable[[str], None]) -> None:
        self._context, self._home, self._report = context, home, report
        self._kafka = context.settings.get("kafka", KafkaSettings)
        self._local_kafka = context.settings.get("local_kafka", LocalKafkaSettings)
        self._local: LocalKafka | None = None
        self.num_partitions = self._kafka.partitions

    def start(self) -> Broker:
        """Empty the demo's folder, start the broker and create the topics."""
        self._clean()
        # The jars are shared with `shelfwise kafka up`; data, log and port are the demo's own.
        shared_jars = brokers.jar_folder(self._local_kafka, self._context.home)
        wanted = replace(self._local_kafka, jars=str(shared_jars), port=0)
        if self._kafka.broker in {"auto", "local"}:
            # Set before the start, so that an interrupt during the start stops the broker too.
            self._local = brokers.local(wanted, self._home, self._report)
        broker = brokers.start(self._kafka, wanted, self._home, self._report)
        if broker.memory:
            self._local = None
        else:
            self.num_partitions = partitions(self._context.settings)
            created = create_topics(broker, self.num_partitions)
            self._report(f"broker {broker.bootstrap}: {len(created)} topics with {self.num_partitions} partitions")
        return broker

    def start_again_if_gone(self) -> None:
        """Start the demo's own broker again if its process has ended."""
        if self._local is not None and self._local.pid is None:
            self._report("the broker is gone: starting it again")
            self._local.start()

    def stop(self) -> None:
        """Stop the demo's own broker; any other one stays."""
        if self._local is not None:
            self._local.stop()

    def _clean(self) -> None:
        leftover = brokers.local(self._local_kafka, self._home, self._report)
        if leftover.pid is not None:
            self._report("stopping the broker that an earlier demo left running")
            leftover.stop()
        for path in self._home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
