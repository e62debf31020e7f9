"""The annotations: a replica of the topic `annotations`, each judgement once.

Of several judgements of one annotator on an item under one budget, the last record in the log counts. So what counts is
a function of the log.
"""

import logging
from collections.abc import Iterable

from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import SchemaError
from stream.schemas import topics
from stream.schemas.annotation import Annotation, decode
from stream.schemas.records import Record

_log = logging.getLogger(__name__)


class Annotations:
    """Annotations of a log.

    Attributes:
        by_id: Id to annotation in the order of the log, corrected ones included.
        num_rejected: Records that could not be decoded, and were left out.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Annotation] = {}
        self.num_rejected = 0

    @classmethod
    def load(cls, broker: Broker) -> "Annotations":
        """Read the topic `annotations` to its end.

        Raises:
            BusError: If the broker is unreachable or the topic does not exist.
        """
        found = cls()
        found.apply(read_to_end(broker, topics.ANNOTATIONS))
        return found

    def apply(self, records: Iterable[Record]) -> None:
        """Apply further records in offset order; copies of a judgement change nothing."""
        for record in records:
            try:
                annotation = decode(record.value)
            except SchemaError as error:
                self.num_rejected += 1
                _log.warning(
                    "%s/%d, offset %d: record left out: %s", record.topic, record.partition, record.offset, error
                )
            else:
                self.by_id.setdefault(annotation.event_id, annotation)

    def counting(self) -> list[Annotation]:
        """Return the annotations that count, in the order of the log: without those that a later one corrects."""
        last = {annotation.identity: annotation for annotation in self.by_id.values()}
        return [each for each in self.by_id.values() if last[each.identity] is each]
