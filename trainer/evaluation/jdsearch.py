"""Lists of JDsearch: product searches of JD.com with the histories of their clients.

Terms: the data set is licensed under CC BY-NC-SA 4.0, for research. It is never shipped with this project; the loader
takes the path of a folder, or of a file, in the form of its `release_data.txt` and `product_data.txt`.

A line is one client's last search: query, candidates, their labels (0 none, 1 click, 2 cart, 3 purchase), and the
history of queries, products, actions and intervals. Fields are divided by tabs, their entries by `_`. The form holds no
time of day, no prices and no visits: a line is a visit, lists are split in their order, and intervals are read as
seconds. Candidates are read in the order of the file, which stands in for the displayed and for the incoming order.

Source: Liu et al. 2023, JDsearch: A Personalized Product Search Dataset with Real Queries and Full Interactions;
https://github.com/rucliujn/JDsearch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stream.errors import ConfigError
from stream.replicas.catalogue import Catalogue
from stream.schemas.events import History, Item
from trainer.evaluation.lists import Dataset, LabelledList, split_in_order
from trainer.features import context_f16, example_from_request, item_f16

SEARCHES = "release_data.txt"
PRODUCTS = "product_data.txt"
NOTE = "JDsearch form: lists split in their order, no prices; the order of the file stands in for the displayed order"
_HEADERS = {"query", "wid"}
_FIELDS = 7
_PRODUCT_FIELDS = 13
_BOUGHT, _CLICKED = 3, 1
# A follow is a sign of interest without a counterpart among the actions of a profile.
_ACTIONS = {"CLICK": "click", "CART": "add_to_cart", "ORD": "purchase", "FLW": "view"}
_HISTORY = 50


def load(path: Path) -> Dataset:
    """Return the lists of a folder, or of one file of searches without products.

    Raises:
        ConfigError: If a file is missing, or a line has another form; the message names file, line and field.
    """
    folder = path.is_dir()
    searches = path / SEARCHES if folder else path
    if not searches.is_file():
        raise ConfigError(f"{searches} does not exist")
    catalogue = _catalogue(path / PRODUCTS) if folder and (path / PRODUCTS).is_file() else Catalogue()
    lists = [_list(searches, number, fields, catalogue) for number, fields in _lines(searches, _FIELDS)]
    return Dataset(name=f"jdsearch {path.name}", note=NOTE, split=split_in_order(lists))


def _lines(path: Path, num_fields: int) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != num_fields:
                raise ConfigError(f"{path}, line {number}: {len(fields)} fields, expected {num_fields} divided by tabs")
            # The published samples begin with the names of the fields.
            if number > 1 or fields[0] not in _HEADERS:
                yield number, [field.strip() for field in fields]


def _catalogue(path: Path) -> Catalogue:
    """Return the products with brand, shop and categories, root first; their price is unknown."""
    found = Catalogue()
    for _, (product, name, brand, _, *categories, shop) in _lines(path, _PRODUCT_FIELDS):
        found.put(
            Item(
                item_id=product,
                title=name,
                brand_id=brand or None,
                shop_id=shop or None,
                category_ids=[category for category in categories[::2] if category],
                price_minor=0,
                currency="CNY",
                updated_ts=0,
            )
        )
    return found


def _list(path: Path, number: int, fields: Sequence[str], catalogue: Catalogue) -> LabelledList:
    candidates, labels, products, actions, intervals = (_entries(fields[at]) for at in (1, 2, 4, 5, 6))
    where = f"{path}, line {number}"
    if not candidates or len(candidates) != len(labels):
        raise ConfigError(
            f"{where}: {len(candidates)} candidates, {len(labels)} labels: expected equal numbers above 0"
        )
    if not len(products) == len(actions) == max(len(intervals) - 1, 0):
        raise ConfigError(
            f"{where}: {len(products)} products, {len(actions)} actions and {len(intervals)} intervals of history:"
            " expected equal numbers, and one interval more"
        )
    unknown = sorted(set(actions) - set(_ACTIONS))
    if unknown:
        raise ConfigError(f"{where}: history_type_list has {unknown[0]!r}: expected one of {', '.join(_ACTIONS)}")
    grade = _numbers(where, "candidate_label_list", labels)
    if not np.isin(grade, (0, 1, 2, 3)).all():
        raise ConfigError(f"{where}: candidate_label_list {fields[2][:40]!r}: expected labels of 0, 1, 2 or 3")
    steps = _numbers(where, "history_time_list", intervals)
    # The age of a behaviour is the sum of the intervals after it.
    age = np.cumsum(steps[::-1])[: len(products)]
    history = History(
        object_id=products[::-1][:_HISTORY],
        action=[_ACTIONS[action] for action in actions[::-1][:_HISTORY]],
        age_s=[int(max(seconds, 0)) for seconds in age[:_HISTORY]],
        category=[""] * min(len(products), _HISTORY),
    )
    example = example_from_request(
        query_id=f"line-{number}",
        item_ids=candidates,
        items=item_f16([catalogue.get(item_id) for item_id in candidates]),
        context=context_f16(event_ts=0),
        history=history,
        category=None,
        catalogue=catalogue,
    )
    kept = grade[example.index]
    return LabelledList(
        example=replace(
            example,
            click=(kept >= _CLICKED).astype(np.float32),
            conv=(kept >= _BOUGHT).astype(np.float32),
        ),
        visit=f"line-{number}",
        visit_ts=0,
        shown_ts=0,
        grade=kept,
        num_lost=int((grade > 0).sum() - (kept > 0).sum()),
    )


def _entries(field: str) -> list[str]:
    return field.split("_") if field else []


def _numbers(where: str, name: str, entries: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    try:
        values = np.array([float(entry) for entry in entries], dtype=np.float64)
    except ValueError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error
    if not np.isfinite(values).all():
        raise ConfigError(f"{where}: {name}: expected finite numbers")
    return values
