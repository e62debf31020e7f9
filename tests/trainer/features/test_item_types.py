from dataclasses import replace

import numpy as np

from tests.trainer.lists import batch_of, catalogue, id_maps, labelled, served
from trainer.features import Batch, Examples, collate, example_from_session
from trainer.features.item_types import ITEM_TYPES, item_types, only_type, type_columns

KNOWN = catalogue()


def typed(*names: str) -> Batch:
    request = replace(served(3, KNOWN, n=len(names)), types=list(names))
    session = request.session(range(len(names)))
    return batch_of([example_from_session(session, KNOWN), labelled(2, KNOWN, n=2)])


def test_types_come_out_of_the_numbers_and_absent_ones_are_products() -> None:
    batch = typed("video", "product", "poll", "sponsored", "card")
    named = [[ITEM_TYPES[code] for code in row] for row in item_types(batch, 2).tolist()]
    assert named == [["video", "product", "other", "sponsored", "card"], ["product"] * 5]


def test_a_schema_without_types_has_products_alone() -> None:
    assert type_columns(1) is None
    examples = Examples.of([labelled(1, KNOWN, n=6)])
    batch = collate(examples, id_maps(), width=16, history=10, schema=1)
    assert not item_types(batch, 1).any()


def test_one_type_alone_leaves_the_others_as_padding() -> None:
    batch = typed("video", "product", "video", "card")
    found = only_type(batch, 2, "video")
    assert found.cand_mask.tolist() == [[True, False, True, False], [False] * 4]
    assert not found.cand_id[0, [1, 3]].any()
    np.testing.assert_array_equal(found.cand_id[0, [0, 2]], batch.cand_id[0, [0, 2]])
    np.testing.assert_array_equal(found.cand_num, batch.cand_num)
