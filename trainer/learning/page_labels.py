"""Labels of the whole pages of a batch: the orders of teachers, and the grades of people.

Source: SMAR, arXiv 2510.16803; docs/training.md, "SMAR".
"""

from trainer.features import Batch
from trainer.features.item_types import item_types
from trainer.learning.teachers import Teachers
from trainer.learning.training_lists import TrainingLists
from trainer.models.batch import PageLabels


def labels_of_pages(lists: TrainingLists, batch: Batch, schema: int, teachers: Teachers | None) -> PageLabels | None:
    """Return the labels of B pages; None if they have neither teachers nor grades.

    Args:
        lists: The lists; labels that they bring stand in place of those of the teachers.
        batch: Batch of these lists, of a feature schema.
        schema: Number of that schema.
        teachers: The teachers of the model.
    """
    page = lists.page
    if page is None and teachers is not None:
        page = teachers.labels(lists.examples, batch, schema)
    if lists.grade is None:
        return page
    page = PageLabels.none(item_types(batch, schema)) if page is None else page
    grade, rows = page.grade.copy(), lists.examples.cand
    grade[rows.of, rows.place] = lists.grade
    return page._replace(grade=grade)
