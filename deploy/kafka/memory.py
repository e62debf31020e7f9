"""The mock cluster inside the confluent-kafka wheel: a broker in this process's memory, for demos without Java.

It keeps the newest 5 MiB per partition and forgets everything when the process ends. Upstream calls it experimental,
so the wheel is pinned.
"""

import ctypes
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Self

from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics

_PRODUCER = 0


class MemoryBroker:
    """A running mock cluster with all topics of Shelfwise."""

    def __init__(self, partitions: int) -> None:
        """Start the cluster on a free loopback port.

        Raises:
            BusError: If the wheel's library is missing or refuses.
        """
        self._library = _load()
        message = ctypes.create_string_buffer(512)
        self._handle = self._library.rd_kafka_new(_PRODUCER, None, message, len(message))
        if not self._handle:
            raise BusError(f"librdkafka: {message.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._handle, 1)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._handle)
            raise BusError("librdkafka: the mock cluster did not start")
        for topic in topics.ALL:
            count = topics.partitions_of(topic, partitions)
            error = self._library.rd_kafka_mock_topic_create(self._cluster, topic.name.encode(), count, 1)
            if error:
                raise BusError(f"librdkafka: topic {topic.name}: error {error}")
        # Without this the first join of a group waits 3 s for other members.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        bootstrap: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.broker = Broker(bootstrap=bootstrap.decode(), memory=True)

    def close(self) -> None:
        """Stop the cluster; its records are gone. A second call does nothing."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._handle)
            self._cluster = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _load() -> ctypes.CDLL:
    try:
        shipped = files("confluent-kafka") or []
    except PackageNotFoundError as error:
        raise BusError("the memory broker needs the confluent-kafka wheel") from error
    paths = [
        Path(str(entry.locate())) for entry in shipped if entry.name.startswith("librdkafka") and _is_binary(entry.name)
    ]
    if not paths:
        raise BusError("the confluent-kafka wheel on this platform carries no librdkafka")
    library = ctypes.CDLL(str(paths[0]))
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [integer, pointer, text, ctypes.c_size_t]
    library.rd_kafka_destroy.argtypes = [pointer]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, integer]
    library.rd_kafka_mock_cluster_destroy.argtypes = [pointer]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    library.rd_kafka_mock_topic_create.argtypes = [pointer, text, integer, integer]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [pointer, ctypes.c_int32]
    return library


def _is_binary(name: str) -> bool:
    return ".so" in name or name.endswith((".dylib", ".dll"))
