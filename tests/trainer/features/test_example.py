"""Examples together and apart."""

import dataclasses

import numpy as np
import pytest

from tests.trainer.lists import catalogue, labelled
from trainer.features import Examples, SessionExample

KNOWN = catalogue()
EVERY = [labelled(seed, KNOWN, depth=seed % 4) for seed in range(9)]


def assert_same(left: SessionExample, right: SessionExample) -> None:
    for field in dataclasses.fields(SessionExample):
        np.testing.assert_equal(getattr(left, field.name), getattr(right, field.name))


@pytest.mark.parametrize("rows", [range(9), [], [0], [2, 3, 8]])
def test_lists_are_put_together_chosen_and_taken_apart(rows: list[int]) -> None:
    together = Examples.of(EVERY)
    assert len(together) == 9
    found = together.take(np.isin(np.arange(9), list(rows)))
    assert len(found) == len(rows)
    for ours, row in zip(found.split(), rows, strict=True):
        assert_same(ours, EVERY[row])


def test_of_vectors_of_several_widths_the_widest_stay() -> None:
    narrow = dataclasses.replace(EVERY[3], img=EVERY[3].img[:, :4], hist_txt=EVERY[3].hist_txt[:, :0])
    wide, found = Examples.of([EVERY[2], narrow]).split()
    assert_same(wide, EVERY[2])
    assert not found.img_mask.any()
    assert not found.hist_txt_mask.any()
    assert (found.img.shape, found.hist_txt.shape) == (EVERY[3].img.shape, EVERY[3].hist_txt.shape)
    assert found.txt_mask.tolist() == EVERY[3].txt_mask.tolist()
