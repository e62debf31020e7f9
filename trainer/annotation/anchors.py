"""Iso-label anchors: a binary search in each item type for the score at which it is worth as much as another one.

The public text on SMAR names iso-label anchors that a binary search finds, and its code has none: this form is a
reconstruction. It takes the grades of a type as monotone in its scores.

Source: SMAR, arXiv 2510.16803; docs/annotation.md, "Iso-label anchors".
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from stream.schemas.annotation import Annotation
from trainer.annotation.pages import best_places
from trainer.annotation.scored_lists import ScoredList

Grades = Mapping[str, Mapping[str, float]]
"""The grade of each judged item, by query."""


def next_places(types: Sequence[str], scores: Sequence[float], grades: Sequence[float | None]) -> list[int]:
    """Return the places of the items to judge next, in ascending order; none once all searches have ended.

    The anchor is the middle item, by score, of the type with the most items; of equally many the one that stands first.
    In each other type of n items, at most ceil(log2(n + 1)) judgements find the first item whose grade is below the
    anchor's.

    Args:
        types: Type of each item.
        scores: Score of each item; only those of one type are compared.
        grades: Grade of each item; None if it is not judged.

    >>> types, scores = ["product", "product", "product", "video"], [0.1, 0.3, 0.2, 5.0]
    >>> next_places(types, scores, [None, None, None, None])
    [2, 3]
    >>> next_places(types, scores, [None, None, 2.0, 1.0])
    []
    """
    order: dict[str, list[int]] = {name: [] for name in types}
    for place in sorted(range(len(types)), key=lambda place: -scores[place]):
        order[types[place]].append(place)
    if len(order) < 2:
        return []
    # Of equal numbers `max` takes the first one, and types stand in the order of the list.
    own = max(order, key=lambda name: len(order[name]))
    anchor = order[own][len(order[own]) // 2]
    level = grades[anchor]
    found = [anchor] if level is None else []
    for name, places in order.items():
        asked = None if name == own else _asked([grades[place] for place in places], level)
        if asked is not None:
            found.append(places[asked])
    return sorted(found)


def _asked(grades: Sequence[float | None], level: float | None) -> int | None:
    """Return the number of the item, best score first, whose grade the search needs next; None if it has ended.

    Before the anchor has a grade, only the first step is known.
    """
    low, high = 0, len(grades)
    while low < high:
        middle = (low + high) // 2
        grade = grades[middle]
        if grade is None:
            return middle
        if level is None:
            return None
        low, high = (middle + 1, high) if grade >= level else (low, middle)
    return None


def by_query(annotations: Iterable[Annotation], budget: str) -> dict[str, dict[str, float]]:
    """Return the grades of a labelling budget; of several annotators of an item the mean counts."""
    found: dict[str, dict[str, list[int]]] = {}
    for each in annotations:
        if each.budget == budget:
            found.setdefault(each.query_id, {}).setdefault(each.item_id, []).append(each.grade)
    return {query: {item: fmean(grades) for item, grades in items.items()} for query, items in found.items()}


def asked_places(found: ScoredList, grades: Grades) -> list[int]:
    """Return the places of a list whose items are to be judged next; an item that stands twice is asked for once."""
    places, known = best_places(found), grades.get(found.query_id, {})
    chosen = next_places(
        [found.type[place] for place in places],
        [found.score[place] for place in places],
        [known.get(found.item_id[place]) for place in places],
    )
    return [places[index] for index in chosen]


def open_lists(lists: Iterable[ScoredList], grades: Grades, left_out: Counter[str]) -> Iterator[ScoredList]:
    """Yield the lists with a search that has not ended, and count the others by reason."""
    for found in lists:
        if asked_places(found, grades):
            yield found
        else:
            left_out["anchored already" if len(set(found.type)) > 1 else "of one item type"] += 1
