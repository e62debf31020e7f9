"""Paths of categories."""

import pytest

from trainer.features.categories import covers, nodes


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        (["a"], ("a",)),
        (["a > b"], ("a", "b")),
        (["a/b", "c"], ("a", "b", "c")),
        ([""], ()),
        ([" a >  > b "], ("a", "b")),
    ],
)
def test_nodes_of_paths(categories: list[str], expected: tuple[str, ...]) -> None:
    assert nodes(categories) == expected


def test_a_query_covers_what_holds_its_nodes_in_order() -> None:
    path = ("a", "b", "c")
    assert all(covers(query, path) for query in [("a",), ("c",), ("a", "c"), path])
    assert not any(covers(query, path) for query in [(), ("d",), ("b", "a"), ("a", "b", "c", "d")])
