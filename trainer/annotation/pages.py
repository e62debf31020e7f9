"""Candidate pages: the few items of a list that people judge, chosen by the scores of rankers of one type each.

Source: SMAR, arXiv 2510.16803; docs/annotation.md.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stream.schemas.identity import digest
from stream.schemas.money import format_minor
from trainer.annotation.files import PageRow
from trainer.annotation.scored_lists import ScoredList


def top(types: Sequence[str], scores: Sequence[float], p: float) -> list[int]:
    """Return the places of the top max(1, round(n_m p)) of the n_m items of each type m, in ascending order.

    Of equal scores, the first ones in the list are chosen. Half of an item is rounded to the even number.

    Args:
        types: Type of each item.
        scores: Score of each item; only those of one type are compared.
        p: Share of the items, above 0 and at most 1.

    >>> top(["product", "video", "product", "product"], [0.1, -5.0, 0.3, 0.2], 0.5)
    [1, 2, 3]
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(types):
        places.setdefault(name, []).append(place)
    chosen = []
    for of_type in places.values():
        best = sorted(of_type, key=lambda place: -scores[place])
        chosen += best[: max(1, round(len(of_type) * p))]
    return sorted(chosen)


def best_places(found: ScoredList) -> list[int]:
    """Return one place for each item of a list: of an item that stands twice, that of its best score."""
    best: dict[str, int] = {}
    for place, item_id in enumerate(found.item_id):
        if item_id not in best or found.score[place] > found.score[best[item_id]]:
            best[item_id] = place
    return list(best.values())


def rows_of(found: ScoredList, p: float, budget: str, text: str, titles: Mapping[str, str]) -> list[PageRow]:
    """Return the candidate page of a list: of each type the top share p; the arguments are those of `page_of`."""
    places = best_places(found)
    chosen = top([found.type[place] for place in places], [found.score[place] for place in places], p)
    return page_of(found, [places[index] for index in chosen], budget, text, titles)


def page_of(
    found: ScoredList, places: Sequence[int], budget: str, text: str, titles: Mapping[str, str]
) -> list[PageRow]:
    """Return the rows of some items of a list, in an order that tells annotators nothing: that of a hash.

    Args:
        found: The list.
        places: Places of the items, each item once.
        budget: Name of the labelling budget, which is part of the id of the page.
        text: Text of the query.
        titles: Title of each item.
    """
    partition, offset = found.session_at or (None, None)
    num_items = len(set(found.item_id))
    rows = [
        PageRow(
            page=page_id(found.query_id, budget),
            budget=budget,
            query_id=found.query_id,
            query=text,
            category=found.category or "",
            item_id=found.item_id[place],
            type=found.type[place],
            title=titles.get(found.item_id[place], ""),
            price=format_minor(found.price_minor[place], found.currency),
            score=found.score[place],
            num_items=num_items,
            session_partition=partition,
            session_offset=offset,
        )
        for place in places
    ]
    return sorted(rows, key=lambda row: digest(row.page, row.item_id))


def page_id(query_id: str, budget: str) -> str:
    """Return the id of the candidate page of a query under a budget: the same one in every export."""
    return digest("page", query_id, budget).hex()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Conditions on the lists of an export.

    Attributes:
        lineage: The lineage that ranked the list; None = any.
        from_ts: First time of the impression, epoch milliseconds.
        to_ts: Time of the impression before which the list was shown; None = no end.
        query_hashes: Hashes of the queries; None = all queries.
        judged: Ids of queries that are judged already.
    """

    lineage: str | None = None
    from_ts: int = 0
    to_ts: int | None = None
    query_hashes: Collection[str] | None = None
    judged: Collection[str] = ()

    def reason_against(self, found: ScoredList) -> str | None:
        """Return why a list is left out, None if it is wanted."""
        if self.lineage is not None and found.lineage != self.lineage:
            return "ranked by another lineage"
        if found.shown_ts < self.from_ts or (self.to_ts is not None and found.shown_ts >= self.to_ts):
            return "shown at another time"
        if self.query_hashes is not None and found.query_hash not in self.query_hashes:
            return "of another query"
        return "judged already" if found.query_id in self.judged else None


def wanted_lists(lists: Iterable[ScoredList], wanted: Wanted, left_out: Counter[str]) -> Iterator[ScoredList]:
    """Yield the lists that are wanted, and count the others by reason."""
    for found in lists:
        reason = wanted.reason_against(found)
        if reason is None:
            yield found
        else:
            left_out[reason] += 1


def sample(lists: Iterable[ScoredList], num: int) -> list[ScoredList]:
    """Return `num` lists with the least hashes of their query ids, or all if there are fewer; of copies the last.

    So the choice has nothing to do with what a list shows, and is the same in every export of the same log. No more
    than `num` lists are kept in memory.
    """
    kept: dict[bytes, ScoredList] = {}
    last = b""
    for found in lists:
        key = digest("sample", found.query_id)
        if key in kept or len(kept) < num or key < last:
            kept[key] = found
            if len(kept) > num:
                del kept[last]
            last = max(kept)
    return [kept[key] for key in sorted(kept)]
