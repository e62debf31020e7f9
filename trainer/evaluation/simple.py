"""Rankers that learn nothing: the displayed order, chance, the last touched item, the lowest price."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.evaluation.lists import LabelledList, padded
from trainer.evaluation.metrics import Floats
from trainer.features import NUM_COLUMNS, SessionExample

_PRICE = NUM_COLUMNS.index("price")
_LAST = NUM_COLUMNS.index("touch_last")
_BEFORE_ALL = 100_000.0

DISPLAYED = "displayed order"
RANDOM = "random"


def _displayed(example: SessionExample) -> Floats:
    return -example.index.astype(np.float64)


def _incoming(example: SessionExample) -> Floats:
    return -example.rank.astype(np.float64)


def _last_touched(example: SessionExample) -> Floats:
    return _displayed(example) + _BEFORE_ALL * example.num[:, _LAST]


def _cheapest(example: SessionExample) -> Floats:
    return -example.num[:, _PRICE].astype(np.float64)


SIMPLE: Mapping[str, Callable[[SessionExample], Floats]] = {
    DISPLAYED: _displayed,
    "incoming order": _incoming,
    "last touched": _last_touched,
    "cheapest": _cheapest,
}
"""Rankers of lists with the columns of the feature schema."""


def scores(name: str, lists: Sequence[LabelledList], seed: int) -> Floats:
    """Return the padded scores [B,n] that a simple ranker gives to lists."""
    width = max((len(each.example.item_ids) for each in lists), default=0)
    if name == RANDOM:
        return np.random.default_rng(seed).random((len(lists), width))
    return padded([SIMPLE[name](each.example) for each in lists], (len(lists), width))


def is_reordered(lists: Sequence[LabelledList]) -> bool:
    """Return whether any list was shown in another order than the incoming one."""
    return any((np.diff(each.example.index) < 0).any() for each in lists)
