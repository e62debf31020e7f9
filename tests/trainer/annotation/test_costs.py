"""Costs against sums by hand."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from stream.replicas.annotations import Annotations
from stream.schemas.annotation import Annotation, annotation_of
from tests.stream.replicas.test_annotations import log
from tests.stream.schemas.test_annotation import JUDGED
from trainer.annotation.costs import Cost, costs


def judged(**values: Any) -> Annotation:
    return annotation_of(replace(JUDGED, **values), 0)


def found(annotations: Iterable[Annotation]) -> Annotations:
    made = Annotations()
    made.apply(log(*annotations))
    return made


def test_each_annotator_of_a_list_would_judge_all_of_it() -> None:
    log = [
        judged(item_id="a", seconds=2.1),
        judged(item_id="b", seconds=4.0),
        judged(item_id="a", annotator="bob", seconds=None),
        judged(item_id="x", query_id="q-2", num_items=10, seconds=6.0),
        # A correction: its time was spent, and the item is judged once.
        judged(item_id="a", grade=1, seconds=8.0),
        judged(item_id="a", budget="p10", num_items=4, seconds=None),
    ]
    first, second = costs(found(log))
    assert first == Cost(
        budget="p10",
        queries=1,
        annotators=1,
        judgements=1,
        full_judgements=4,
        share=0.25,
        corrections=0,
        seconds=0.0,
        untimed=1,
        full_seconds=None,
    )
    assert second == Cost(
        budget="p30",
        queries=2,
        annotators=2,
        judgements=4,
        full_judgements=24 + 24 + 10,
        share=4 / 58,
        corrections=1,
        seconds=20.1,
        untimed=1,
        full_seconds=20.1 / 4 * 58,
    )
    assert costs(found([])) == []
