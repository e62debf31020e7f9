"""Delivery of judgements to the topic `annotations`, each once."""

from collections.abc import Collection

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas.annotations import Annotations
from stream.schemas import topics
from stream.schemas.annotation import Annotation, encode


def deliver(broker: Broker, annotations: Collection[Annotation]) -> int:
    """Send the annotations that the topic has not, wait until all are acknowledged, and return their number.

    A call that was interrupted is repeated with the same annotations: it sends those that are missing.

    Raises:
        BusError: If the broker is unreachable, the topic does not exist, or a record was not acknowledged.
    """
    known = Annotations.load(broker).by_id
    new = [each for each in annotations if each.event_id not in known]
    if new:
        with Producer(broker) as producer:
            for each in new:
                producer.send(topics.ANNOTATIONS, key=each.key, value=encode(each))
    return len(new)
