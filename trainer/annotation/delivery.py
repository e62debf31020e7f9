"""Delivery of judgements to the topic `annotations`, each once."""

from collections.abc import Iterable

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas.annotations import Annotations
from stream.schemas import topics
from stream.schemas.annotation import Annotation, encode


def unknown(broker: Broker, annotations: Iterable[Annotation]) -> list[Annotation]:
    """Return the annotations that the topic has not.

    Raises:
        BusError: If the broker is unreachable, or the topic does not exist.
    """
    known = Annotations.load(broker).by_id
    return [each for each in annotations if each.event_id not in known]


def deliver(broker: Broker, annotations: Iterable[Annotation]) -> None:
    """Send the annotations, and wait until all are acknowledged.

    A call that was interrupted is repeated with those that the topic has not: it sends those that are missing.

    Raises:
        BusError: If the broker is unreachable, the topic does not exist, or a record was not acknowledged.
    """
    with Producer(broker) as producer:
        for each in annotations:
            producer.send(topics.ANNOTATIONS, key=each.key, value=encode(each))
