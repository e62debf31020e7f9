"""Labels of pages: those that the caller brings, grades by candidate, and the scores of teachers beside them."""

from pathlib import Path

import numpy as np
import torch

from tests.trainer.learning.test_teachers import LISTS, teacher
from tests.trainer.lists import batch_of
from trainer.features.item_types import item_types
from trainer.learning.page_labels import labels_of_pages
from trainer.learning.teachers import Teachers
from trainer.learning.training_lists import TrainingLists
from trainer.models.batch import PageLabels

BATCH = batch_of(LISTS.split())
SILENT = TrainingLists.without_sessions(LISTS, fresh=False)


def graded() -> tuple[TrainingLists, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    grade = np.full(len(LISTS.item_ids), np.nan, np.float32)
    grade[[0, 13, 35]] = [3, 1, 2]
    return TrainingLists.without_sessions(LISTS, fresh=False, grade=grade), grade


def test_lists_without_teachers_and_grades_have_no_labels() -> None:
    assert labels_of_pages(SILENT, BATCH, 2, None) is None


def test_grades_stand_at_their_candidates() -> None:
    lists, grade = graded()
    found = labels_of_pages(lists, BATCH, 2, None)
    assert found is not None
    np.testing.assert_array_equal(found.grade[BATCH.cand_mask], grade)
    assert np.isnan(found.grade[~BATCH.cand_mask]).all()
    assert np.isnan(found.teacher).all()
    np.testing.assert_array_equal(found.type, item_types(BATCH, 2))


def test_graded_pages_have_the_scores_of_the_teachers_too(tmp_path: Path) -> None:
    teachers = Teachers([teacher(tmp_path, "product", 1)], torch.device("cpu"))
    lists, grade = graded()
    found = labels_of_pages(lists, BATCH, 2, teachers)
    alone = labels_of_pages(SILENT, BATCH, 2, teachers)
    assert found is not None
    assert alone is not None
    np.testing.assert_array_equal(found.teacher, alone.teacher)
    assert np.isnan(alone.grade).all()
    np.testing.assert_array_equal(found.grade[BATCH.cand_mask], grade)


def test_labels_that_the_caller_brings_stay_as_they_are() -> None:
    own = PageLabels.none(item_types(BATCH, 2))
    lists = TrainingLists.without_sessions(LISTS, fresh=False, page=own)
    assert labels_of_pages(lists, BATCH, 2, None) is own
