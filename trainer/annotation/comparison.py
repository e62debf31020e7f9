"""Judgements compared with the lists that they name, before a grade is sent that no trainer could learn.

Source: docs/annotation.md, "Judgements".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from stream.errors import SchemaError
from stream.schemas import session
from stream.schemas.annotation import Annotation
from stream.schemas.session import Session
from trainer.feed.past_records import PastRecords, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Result of a comparison.

    Attributes:
        faults: `event_id` of a judgement on an item that its list does not show, with what is wrong.
        unplaced: `event_id` of judgements that name no record of `sessions`.
        lost: `event_id` of judgements whose record is gone, cannot be read, or holds another query.
    """

    faults: Mapping[str, str]
    unplaced: Sequence[str]
    lost: Sequence[str]


def compare(annotations: Collection[Annotation], past: PastRecords) -> Compared:
    """Compare judgements with the lists in the records of `sessions` that they name.

    Raises:
        BusError: If the broker does not bring the records.
    """
    lists = _lists({each.session_at for each in annotations if each.session_at is not None}, past)
    faults, unplaced, lost = {}, [], []
    for each in annotations:
        if each.session_at is None:
            unplaced.append(each.event_id)
        # A topic that was made anew holds other records at the places.
        elif (found := lists.get(each.session_at)) is None or found.query_id != each.query_id:
            lost.append(each.event_id)
        elif each.item_id not in found.item_id:
            faults[each.event_id] = f"item_id: the list of query '{each.query_id}' has no item '{each.item_id}'"
    return Compared(faults=faults, unplaced=unplaced, lost=lost)


def _lists(places: Collection[Place], past: PastRecords) -> dict[Place, Session]:
    found: dict[Place, Session] = {}
    for record in past.at(places) if places else ():
        try:
            content = session.decode(record.value or b"")
        except SchemaError:
            continue
        if isinstance(content, Session):
            found[record.partition, record.offset] = content
    return found
