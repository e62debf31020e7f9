"""Labelled lists, their split by time, and the padded columns that metrics read.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stream.errors import ConfigError
from stream.schemas.session import Session
from trainer.evaluation.metrics import Floats, Keys, Mask, tie_keys
from trainer.features import CatalogueLike, ExampleBuilder, SessionExample, final_labels

Label = Literal["order", "click"]

GRADE_BUY = 3.0
GRADE_CART = 2.0
GRADE_CLICK = 1.0

_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledList:
    """One logged list with all its labels; rows in the order of its example.

    Attributes:
        visit: Unit of the bootstrap: the browsing visit, else the client.
        visit_ts: Time of the visit's first event, which puts the visit into a part of the split.
        shown_ts: Time of the list.
        grade: Relevance for NDCG: bought 3, in the cart 2, clicked 1, else 0; or the grades of the data.
        propensity: Chance that each item stood in its place, given the candidates; None if the log does not hold it.
        is_shuffled: Whether each candidate could stand in each place with one chance.
        num_lost: Items with a label that the example leaves out, because the list is longer than a model reads.
    """

    example: SessionExample
    visit: str
    visit_ts: int
    shown_ts: int
    grade: Floats
    propensity: Floats | None = None
    is_shuffled: bool = False
    num_lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Lists to train, to stop early and to evaluate, each in the order of time.

    Attributes:
        num_over_boundary: Lists left out because their visit had begun in an earlier part.
    """

    train: Sequence[LabelledList]
    validation: Sequence[LabelledList]
    test: Sequence[LabelledList]
    num_over_boundary: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Lists of one source.

    Attributes:
        note: Terms and peculiarities that a reader of the figures must know.
        num_columns: Numbers of an item in data of another form; 0 = the columns of the feature schema.
        has_order: Whether the data hold the order in which the items were shown.
        num_rejected: Sessions left out, by reason.
    """

    name: str
    note: str
    split: Split
    num_columns: int = 0
    has_order: bool = True
    num_rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def from_schema(self) -> bool:
        """Return whether the numbers of the items are the columns of the feature schema."""
        return self.num_columns == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Padded columns of lists. Legend: B lists, n items.

    Attributes:
        visit: [B] units of the bootstrap.
        category: [B] query category, "" = unknown.
        mask: [B,n] real items.
        positive: [B,n] items with the label that the evaluation asks for.
        grade: [B,n] relevance.
        clicks: [B,n] items clicked, in the cart or bought, 0 or 1.
        orders: [B,n] items bought, 0 or 1.
        money: [B,n] minor units of the items bought.
        tie: [B,n] keys that order items of equal score.
        shown: [B,n] place in which each item was shown, from 1.
        propensity: [B,n] chance that it stood there; 1 where the log holds none.
    """

    visit: tuple[str, ...]
    category: tuple[str, ...]
    mask: Mask
    positive: Mask
    grade: Floats
    clicks: Floats
    orders: Floats
    money: Floats
    tie: Keys
    shown: Floats
    propensity: Floats

    @property
    def num_lists(self) -> int:
        """Return B."""
        return len(self.visit)

    def part(self, start: int, stop: int) -> "Columns":
        """Return the columns of some of the lists."""
        rows = slice(start, stop)
        return Columns(**{name: getattr(self, name)[rows] for name in self.__slots__})

    @classmethod
    def of(cls, lists: Sequence[LabelledList], label: Label, *, tie_seed: int) -> "Columns":
        """Return the columns of lists; `tie_seed` is the seed of the order of equal scores."""
        examples = [each.example for each in lists]
        positive = [example.conv if label == "order" else example.click for example in examples]
        keys = [tie_keys(example.query_id, example.item_ids, tie_seed) for example in examples]
        shape = (len(lists), max(map(len, keys), default=0))
        tie, mask = np.zeros(shape, dtype=np.uint64), np.zeros(shape, dtype=np.bool_)
        for row, own in enumerate(keys):
            tie[row, : len(own)] = own
            mask[row, : len(own)] = True
        return cls(
            visit=tuple(each.visit for each in lists),
            category=tuple(example.category for example in examples),
            mask=mask,
            positive=padded(positive, shape) > 0,
            grade=padded([each.grade for each in lists], shape),
            clicks=np.where(padded([example.click for example in examples], shape) > 0, 1.0, 0.0),
            orders=np.where(padded([example.conv for example in examples], shape) > 0, 1.0, 0.0),
            money=padded([example.money for example in examples], shape),
            tie=tie,
            shown=padded([example.index.astype(np.float64) + 1 for example in examples], shape),
            propensity=np.where(mask, padded([_chances(each) for each in lists], shape), 1.0),
        )


def _chances(each: LabelledList) -> Floats:
    return np.ones(len(each.example.item_ids)) if each.propensity is None else each.propensity


def padded(rows: Sequence[NDArray[np.floating]], shape: tuple[int, int]) -> Floats:
    """Return rows of different length as one array of a shape, 0 behind their ends."""
    values = np.zeros(shape, dtype=np.float64)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
    return values


def excluded(columns: Columns) -> dict[str, int]:
    """Return how many lists metrics leave out, by reason; a list has the first reason that fits.

    Lists without a positive item are in no metric but orders and money. Lists of one item, and lists of positive items
    alone, are not in the GAUC; every ranker gives them the same value of the other metrics.
    """
    num_items, num_positive = columns.mask.sum(axis=1), (columns.positive & columns.mask).sum(axis=1)
    no_positive = num_positive == 0
    one_item = ~no_positive & (num_items == 1)
    all_positive = ~no_positive & ~one_item & (num_positive == num_items)
    return {
        "no positive item": int(no_positive.sum()),
        "one item": int(one_item.sum()),
        "only positive items": int(all_positive.sum()),
    }


def from_sessions(
    sessions: Iterable[Session],
    catalogue: CatalogueLike,
    *,
    visit_starts: Mapping[str, int] | None = None,
) -> tuple[list[LabelledList], dict[str, int]]:
    """Return the lists of sessions in the order of time, and how many sessions were rejected, by reason code.

    Args:
        sessions: The newest revision of each query.
        catalogue: Brands, shops, categories and vectors of the items.
        visit_starts: Visit to the time of its first event; by default a visit starts with its first list.
    """
    found: list[tuple[str, Session, SessionExample]] = []
    rejected: Counter[str] = Counter()
    starts = dict(visit_starts or {})
    builder, rest = ExampleBuilder(catalogue), iter(sessions)
    while some := list(islice(rest, _AT_ONCE)):
        examples, refused = builder.from_sessions(some, [final_labels(session) for session in some])
        rejected.update(error.reason for error in refused.values())
        each_example = iter(examples.split())
        for number, session in enumerate(some):
            visit = session.session_id or session.client_id
            if visit_starts is None or visit not in visit_starts:
                starts[visit] = min(session.impression_ts, starts.get(visit, session.impression_ts))
            if number not in refused:
                found.append((visit, session, next(each_example)))
    found.sort(key=lambda each: (each[1].impression_ts, each[1].query_id))
    return [_labelled(visit, starts[visit], session, example) for visit, session, example in found], dict(rejected)


def _labelled(visit: str, visit_ts: int, session: Session, example: SessionExample) -> LabelledList:
    grade = np.zeros(session.n)
    for value, name in ((GRADE_CLICK, "clicks"), (GRADE_CART, "carts"), (GRADE_BUY, "orders")):
        grade[session.column(name) > 0] = value
    kept = grade[example.index]
    propensity = session.column("propensity").astype(np.float64)
    return LabelledList(
        example=example,
        visit=visit,
        visit_ts=visit_ts,
        shown_ts=session.impression_ts,
        grade=kept,
        propensity=propensity[example.index] if propensity.size == session.n else None,
        is_shuffled=was_shuffled(session),
        num_lost=int((grade > 0).sum() - (kept > 0).sum()),
    )


def was_shuffled(session: Session) -> bool:
    """Return whether each item of the list could stand in each place with the same chance."""
    if session.n < 2 or not session.propensity:
        return False
    propensity = session.column("propensity")
    # One chance up to the precision of float32; `np.allclose` takes longer than building the list.
    return propensity.size == session.n and bool((np.abs(propensity * session.n - 1) < 1e-5).all())


def shuffled_alone(split: Split) -> Split:
    """Return the split with the test lists that were shuffled, on which labels do not favour a former ranker.

    Raises:
        ConfigError: If no test list was shuffled.
    """
    test = [each for each in split.test if each.is_shuffled]
    if not test:
        raise ConfigError(
            f"none of {len(split.test)} test lists was shuffled: an arm with policy:shuffle logs a propensity of 1 / n"
        )
    return replace(split, test=test)


def with_label(lists: Sequence[LabelledList], label: Label) -> list[LabelledList]:
    """Return lists whose target is the label: clicks take the place of orders where clicks are asked for."""
    if label == "order":
        return list(lists)
    return [replace(each, example=replace(each.example, conv=each.example.click)) for each in lists]


def split_by_time(lists: Sequence[LabelledList], validation_from_ts: int, test_from_ts: int) -> Split:
    """Put whole visits into the parts in which they begin; a visit's lists beyond its part are left out and counted.

    Raises:
        ConfigError: If the boundaries are not in order, or a part is empty.
    """
    if not validation_from_ts < test_from_ts:
        raise ConfigError(
            f"test from {test_from_ts}: expected a time after the start of validation {validation_from_ts}"
        )

    def part(moment: int) -> int:
        return int(moment >= validation_from_ts) + int(moment >= test_from_ts)

    return _parted(lists, lambda each: part(each.visit_ts), lambda each: part(each.shown_ts))


def split_by_share(lists: Sequence[LabelledList], shares: tuple[float, float] = (0.6, 0.8)) -> Split:
    """Split by time at the moments by which the given shares of the lists were shown.

    Raises:
        ConfigError: If there are too few lists for three parts.
    """
    moments = sorted(each.shown_ts for each in lists)
    if len(moments) < 3:
        raise ConfigError(f"{len(moments)} lists: expected at least 3, one for each of train, validation and test")
    first, second = (moments[int(share * len(moments))] for share in shares)
    return split_by_time(lists, first, second)


def split_in_order(lists: Sequence[LabelledList], shares: tuple[float, float] = (0.6, 0.8)) -> Split:
    """Split lists without times in the order in which they stand.

    Raises:
        ConfigError: If a part is empty.
    """
    first, second = (int(share * len(lists)) for share in shares)
    place = {id(each): int(row >= first) + int(row >= second) for row, each in enumerate(lists)}
    return _parted(lists, lambda each: place[id(each)], lambda each: place[id(each)])


def _parted(
    lists: Sequence[LabelledList], begins: Callable[[LabelledList], int], shown: Callable[[LabelledList], int]
) -> Split:
    parts: list[list[LabelledList]] = [[], [], []]
    num_over = 0
    for each in lists:
        if begins(each) == shown(each):
            parts[shown(each)].append(each)
        else:
            num_over += 1
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        if not part:
            raise ConfigError(f"the part '{name}' of {len(lists)} lists is empty: expected at least one list")
    return Split(train=parts[0], validation=parts[1], test=parts[2], num_over_boundary=num_over)
