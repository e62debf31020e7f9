"""Weights that ARMMT's fusion units (CAFU) give to the modalities of items, by query and by query category.

The weights depend on the item's vectors and on the context, in which the query stands. The weight of a query is the
mean over its items, so that long lists count no more than short ones.

Source: ARMMT (arXiv 2408.05751), equations 3 to 6.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.configs.base import MODALITIES
from trainer.evaluation.metrics import Floats
from trainer.features import Batch
from trainer.models import Outputs

UNITS: Final = ("cafu_item", "cafu_personal")
OTHER: Final = "other"
"""Name of the categories beyond the largest ones, together."""

_TOP: Final = 10
_QUARTILES: Final = (0.25, 0.5, 0.75)

Key = tuple[str, str]
"""Unit and modality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityWeights:
    """Weights that a fusion unit gives to a modality, over the items that have its vector."""

    unit: str
    modality: str
    num_items: int
    quartiles: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryWeight:
    """Mean weight of a modality over the items of one query."""

    query_id: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryWeights:
    """Weights of a modality by query, over the queries of one category; "" = unknown."""

    unit: str
    modality: str
    category: str
    num_queries: int
    quartiles: tuple[float, float, float]
    lowest: QueryWeight
    highest: QueryWeight


def item_weights(outputs: Outputs, batch: Batch) -> dict[Key, Floats]:
    """Return the weights [B,n] of each unit and modality, NaN where an item lacks the vector or has no weight.

    Empty for models without fusion units.
    """
    present = np.stack([batch.cand_img_mask, batch.cand_txt_mask], axis=2) & batch.cand_mask[:, :, None]
    found: dict[Key, Floats] = {}
    for unit in UNITS:
        if unit in outputs.aux:
            weights = outputs.aux[unit].detach().float().cpu().numpy().astype(np.float64)
            has_weight = present & (weights > 0)
            for column, modality in enumerate(MODALITIES):
                found[unit, modality] = np.where(has_weight[..., column], weights[..., column], np.nan)
    return found


def query_weights(weights: Floats) -> Floats:
    """Return the mean over the items of each query, NaN without any.

    Shapes: (B, n) to (B,).
    """
    num = np.count_nonzero(~np.isnan(weights), axis=1)
    return np.where(num > 0, np.nansum(weights, axis=1) / np.maximum(num, 1), np.nan)


def by_category(
    weights: Mapping[Key, Floats], category: Sequence[str], query_id: Sequence[str], *, top: int = _TOP
) -> tuple[CategoryWeights, ...]:
    """Return the weights in the categories with most queries, the largest first.

    Args:
        weights: Weight of each query [B] by unit and modality.
        category: Category of each query.
        query_id: Id of each query.
        top: Number of categories.
    """
    names, found = np.asarray(category, dtype=np.str_), []
    for name in _largest(Counter(category), top):
        for (unit, modality), values in weights.items():
            rows = np.flatnonzero((names == name) & ~np.isnan(values))
            if rows.size:
                low, high = (rows[at(values[rows])] for at in (np.argmin, np.argmax))
                found.append(
                    CategoryWeights(
                        unit=unit,
                        modality=modality,
                        category=name,
                        num_queries=rows.size,
                        quartiles=_quartiles(values[rows]),
                        lowest=QueryWeight(query_id=query_id[low], weight=float(values[low])),
                        highest=QueryWeight(query_id=query_id[high], weight=float(values[high])),
                    )
                )
    return tuple(found)


class WeightSample:
    """The weights of all items of some batches."""

    def __init__(self) -> None:
        self._items: dict[Key, list[Floats]] = {}
        self._queries: dict[Key, list[Floats]] = {}

    def add(self, outputs: Outputs, batch: Batch) -> None:
        """Add the lists of a batch."""
        for key, weights in item_weights(outputs, batch).items():
            self._items.setdefault(key, []).append(weights[~np.isnan(weights)])
            self._queries.setdefault(key, []).append(query_weights(weights))

    def over_items(self) -> tuple[ModalityWeights, ...]:
        """Return the weights over all items."""
        pooled = {key: np.concatenate(parts) for key, parts in self._items.items()}
        return tuple(
            ModalityWeights(unit=unit, modality=modality, num_items=values.size, quartiles=_quartiles(values))
            for (unit, modality), values in pooled.items()
            if values.size
        )

    def over_queries(self, category: Sequence[str], query_id: Sequence[str]) -> tuple[CategoryWeights, ...]:
        """Return the weights by query category, as `by_category`; the queries are those of all lists, in order."""
        return by_category({key: np.concatenate(parts) for key, parts in self._queries.items()}, category, query_id)


class RunningWeights:
    """Mean weights of queries by category, of lists that come batch by batch."""

    def __init__(self) -> None:
        self._queries: Counter[str] = Counter()
        self._sums: dict[str, dict[Key, tuple[int, float]]] = {}
        self._former: dict[tuple[str, str, str], float] = {}

    def restart(self) -> None:
        """Drop the sums; until the next batch the means are those of before."""
        self._former = self.means()
        self._queries.clear()
        self._sums.clear()

    def add(self, outputs: Outputs, batch: Batch, category: Sequence[str], rows: NDArray[np.bool_]) -> None:
        """Add the lists of a batch that are in `rows` [B]."""
        by_query = {key: query_weights(weights) for key, weights in item_weights(outputs, batch).items()}
        if not by_query:
            return
        for row in np.flatnonzero(rows).tolist():
            self._queries[category[row]] += 1
            sums = self._sums.setdefault(category[row], {})
            for key, values in by_query.items():
                if not np.isnan(values[row]):
                    num, total = sums.get(key, (0, 0.0))
                    sums[key] = (num + 1, total + float(values[row]))

    def means(self, top: int = _TOP) -> dict[tuple[str, str, str], float]:
        """Return the mean weight by unit, modality and category, the categories beyond the largest as `OTHER`."""
        if not self._sums:
            return self._former
        largest = set(_largest(self._queries, top))
        sums: dict[tuple[str, str, str], tuple[int, float]] = {}
        for category, own in self._sums.items():
            for key, (num, total) in own.items():
                place = (*key, (category or "unknown") if category in largest else OTHER)
                known, before = sums.get(place, (0, 0.0))
                sums[place] = (known + num, before + total)
        return {place: total / num for place, (num, total) in sorted(sums.items())}


def _largest(counts: Counter[str], top: int) -> list[str]:
    return [name for name, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:top]]


def _quartiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, _QUARTILES).tolist()
    return low, middle, high
