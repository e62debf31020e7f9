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
        faults: `event_id` of a judgement whose record holds another query, or whose item the list does not show, with
            what is wrong.
        unplaced: `event_id` of judgements that name no record of `sessions`.
        lost: `event_id` of judgements whose list the log does not hold any more.
    """

    faults: Mapping[str, str]
    unplaced: Sequence[str]
    lost: Sequence[str]


def compare(annotations: Collection[Annotation], past: PastRecords, copies: Collection[str] = ()) -> Compared:
    """Compare judgements with the lists in the records of `sessions` that they name.

    Args:
        annotations: The judgements.
        past: The records.
        copies: `event_id` of those that were exported as records: on another broker, other records are at the places.

    Raises:
        BusError: If the broker does not bring the records.
    """
    lists = _lists({each.session_at for each in annotations if each.session_at is not None}, past)
    faults, unplaced, lost = {}, [], []
    for each in annotations:
        if each.session_at is None:
            unplaced.append(each.event_id)
        elif (found := lists.get(each.session_at)) is None:
            lost.append(each.event_id)
        elif found.query_id != each.query_id:
            if each.event_id in copies:
                lost.append(each.event_id)
            else:
                where = f"partition {each.session_partition}, offset {each.session_offset}"
                faults[each.event_id] = (
                    f"query_id: the session at {where} is of '{found.query_id}', got '{each.query_id}'"
                )
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
