"""Categories as paths: a query for a parent node keeps the behaviours of its children.

Source: docs/training.md.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Path = tuple[str, ...]

_SEPARATOR = re.compile(r"\s*[>/]\s*")


def nodes(categories: Sequence[str]) -> Path:
    """Return the nodes of a path, root first; a category that is written as a path counts node by node.

    >>> nodes(["Shoes > Men", "boots"])
    ('Shoes', 'Men', 'boots')
    """
    return tuple(node for category in categories for node in _SEPARATOR.split(category.strip()) if node)


def covers(query: Path, path: Path) -> bool:
    """Return whether the nodes of the query stand in the path, in their order.

    >>> covers(("Shoes",), ("Shoes", "Men", "boots")), covers(("Men", "Shoes"), ("Shoes", "Men", "boots"))
    (True, False)
    """
    rest = iter(path)
    return bool(query) and all(node in rest for node in query)


def ends_with(path: Path, tail: Path) -> bool:
    """Return whether the path ends with these nodes; every path ends with none."""
    return path[len(path) - len(tail) :] == tail


class PathIndex:
    """Numbers of paths, 0 for the empty one, so that the paths of a batch are compared once per pair."""

    def __init__(self) -> None:
        self._numbers: dict[Path, int] = {(): 0}
        self._of_categories: dict[Path, int] = {(): 0}
        self._of_texts: dict[str, int] = {}
        self._known: dict[Callable[[Path, Path], bool], dict[int, bool]] = {}
        self.paths: list[Path] = [()]

    def __len__(self) -> int:
        """Return the number of paths and of answers that are kept."""
        return len(self._of_categories) + sum(map(len, self._known.values()))

    def number(self, categories: Path) -> int:
        """Return the number of the path of some categories, root first; each may be written as a path."""
        found = self._of_categories.get(categories)
        if found is None:
            path = nodes(categories)
            found = self._numbers.setdefault(path, len(self.paths))
            if found == len(self.paths):
                self.paths.append(path)
            self._of_categories[categories] = found
        return found

    def of_texts(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Return the number of the path that each text writes."""
        known = self._of_texts
        return np.array(
            [known[text] if text in known else known.setdefault(text, self.number((text,))) for text in texts], np.int64
        )

    def compare(
        self, test: Callable[[Path, Path], bool], first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return `test(path, path)` of each pair of numbers."""
        pairs = (first << 32 | second).tolist()
        known = self._known.setdefault(test, {})
        answers = list(map(known.get, pairs))
        if None in answers:
            for pair in set(pairs) - known.keys():
                known[pair] = test(self.paths[pair >> 32], self.paths[pair & 0xFFFF_FFFF])
            answers = list(map(known.get, pairs))
        return np.fromiter(answers, np.bool_, len(answers))
