"""The cost of judgements against that of full annotation, by labelling budget.

Source: docs/annotation.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

from stream.replicas.annotations import Annotations
from stream.schemas.annotation import Annotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one labelling budget.

    Attributes:
        budget: Name of the budget.
        queries: Number of queries with judgements.
        annotators: Number of annotators.
        judgements: Items judged; one that two annotators judge counts twice.
        full_judgements: Judgements if each annotator had judged the whole list of each of their queries.
        share: Judgements as a share of those.
        corrections: Judgements that a later one of the same annotator replaces.
        seconds: Time of all judgements whose time was measured, corrected ones included.
        untimed: Judgements whose time was not measured, corrected ones included.
        full_seconds: Time of the full judgements at the mean time of a measured one; None if none was measured.
    """

    budget: str
    queries: int
    annotators: int
    judgements: int
    full_judgements: int
    share: float
    corrections: int
    seconds: float
    untimed: int
    full_seconds: float | None


def costs(found: Annotations) -> list[Cost]:
    """Return the cost of each budget, in the order of their names."""
    counting, everything = _by_budget(found.counting()), _by_budget(found.by_id.values())
    return [_cost(budget, counting[budget], everything[budget]) for budget in sorted(counting)]


def _by_budget(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    budgets: dict[str, list[Annotation]] = {}
    for each in annotations:
        budgets.setdefault(each.budget, []).append(each)
    return budgets


def _cost(budget: str, counting: list[Annotation], everything: list[Annotation]) -> Cost:
    lists = {(each.query_id, each.annotator): each.num_items for each in counting}
    full = sum(lists.values())
    timed = [each.seconds for each in everything if each.seconds is not None]
    return Cost(
        budget=budget,
        queries=len({each.query_id for each in counting}),
        annotators=len({each.annotator for each in counting}),
        judgements=len(counting),
        full_judgements=full,
        share=len(counting) / full,
        corrections=len(everything) - len(counting),
        seconds=fsum(timed),
        untimed=len(everything) - len(timed),
        full_seconds=fsum(timed) / len(timed) * full if timed else None,
    )
