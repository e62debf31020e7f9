"""Sending of records from lines of JSON: validated, or raw so that dead letters can be tried.

Promises: good lines are sent in order even when others are refused; a refused line is named with its number, field
and value.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from stream.broker.producer import Producer, RefusedRecordError
from stream.errors import SchemaError
from stream.schemas import decode, topics
from stream.schemas.events import Event
from stream.schemas.problems import problem

_DECODERS: Mapping[str, Callable[[bytes], Event]] = {
    topics.IMPRESSIONS: decode.impression,
    topics.CLICKS: decode.click,
    topics.CONVERSIONS: decode.conversion,
}


@dataclass(slots=True, kw_only=True)
class Produced:
    """Sent and refused lines.

    Attributes:
        num_sent: Lines handed to the producer.
        refused: Line number and fault of each line that was not sent.
    """

    num_sent: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


def send_lines(producer: Producer, topic: str, lines: Iterable[bytes], *, raw: bool = False) -> Produced:
    """Send each non-empty line to `topic`, keyed by its `client_id`, and wait until all are acknowledged.

    Args:
        producer: Where to.
        topic: `impressions`, `clicks` or `conversions`.
        lines: One JSON record each.
        raw: Send what cannot be decoded too; the join then puts it into `dead_letters`.

    Raises:
        BusError: If the broker did not acknowledge all of them.
    """
    produced = Produced()
    for number, line in enumerate(lines, start=1):
        value = line.rstrip(b"\r\n")
        if not value:
            continue
        try:
            key = decode.client_key(value) if raw else _DECODERS[topic](value).client_id.encode()
            producer.send(topic, key=key, value=value)
        except SchemaError as fault:
            produced.refused.append((number, f"{fault.reason}: {problem(fault.detail, value)}"))
        except RefusedRecordError as fault:
            if not raw:
                raise
            produced.refused.append((number, f"the broker refuses it: {fault}"))
        else:
            produced.num_sent += 1
    producer.flush()
    return produced
