"""Of copies one is kept, and of corrections the last one counts."""

from msgspec.structs import replace

from stream.replicas.annotations import Annotations
from stream.schemas import topics
from stream.schemas.annotation import Annotation, annotation_of, encode
from tests.stream.replicas.test_catalogue import StoredRecord
from tests.stream.schemas.test_annotation import JUDGED

FIRST = annotation_of(replace(JUDGED, event_ts=1), 0)
LATER = annotation_of(replace(JUDGED, event_ts=2, grade=0), 0)


def log(*contents: Annotation | bytes | None) -> list[StoredRecord]:
    return [
        StoredRecord(b"k", encode(each) if isinstance(each, Annotation) else each, offset, topic=topics.ANNOTATIONS)
        for offset, each in enumerate(contents)
    ]


def applied(*contents: Annotation | bytes | None) -> Annotations:
    found = Annotations()
    found.apply(log(*contents))
    return found


def test_the_last_record_of_an_identity_counts_and_copies_change_nothing() -> None:
    assert applied(FIRST, LATER).counting() == [LATER]
    assert applied(FIRST, LATER, FIRST).counting() == [LATER]
    # The order of the log decides, not the times: a page may send late.
    assert applied(LATER, FIRST).counting() == [FIRST]
    assert list(applied(FIRST, LATER, FIRST).by_id.values()) == [FIRST, LATER]


def test_annotators_budgets_items_and_queries_are_judged_apart() -> None:
    others = [
        annotation_of(replace(JUDGED, **{name: "other"}), 3) for name in ("annotator", "budget", "item_id", "query_id")
    ]
    assert applied(FIRST, *others).counting() == [FIRST, *others]
    # A page of another name shows the same item of the same list again.
    moved = annotation_of(replace(JUDGED, page="other"), 3)
    assert applied(FIRST, moved).counting() == [moved]


def test_what_is_no_annotation_is_left_out_and_counted() -> None:
    found = applied(b"{}", FIRST, None)
    assert (found.counting(), found.num_rejected) == ([FIRST], 2)
