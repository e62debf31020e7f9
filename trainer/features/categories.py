"""Categories as paths: a query for a parent node keeps the behaviours of its children.

Source: docs/training.md.
"""

import re
from collections.abc import Sequence

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
