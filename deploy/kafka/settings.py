"""Settings of the local Kafka that `shelfwise kafka up` and the demo start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalKafkaSettings:
    """Port, heap and jars of the local Kafka.

    Attributes:
        port: Port of the broker, 0 for any free one. Its controller listens on the next port.
        heap_mb: Java heap, in MiB.
        jars: Folder of the jars; empty means `kafka/jars` under the home folder.
    """

    port: int = 9092
    heap_mb: int = 512
    jars: str = ""
