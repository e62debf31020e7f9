"""Old names of the broker's parts; import them from their own modules."""

from stream.broker.offsets import append_times, beginning_offsets, end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader, read_to_end
from stream.broker.settings import Broker, KafkaSettings, Security

__all__ = [
    "Broker",
    "KafkaSettings",
    "Producer",
    "Reader",
    "Security",
    "append_times",
    "beginning_offsets",
    "end_offsets",
    "read_to_end",
]
