"""Comparison of generated dashboards with those of a Grafana server. Pure."""

from collections.abc import Iterator, Mapping

from deploy.grafana.model import Json

# Numbers that a server assigns and increments.
SERVER_KEYS = frozenset({"id", "version", "iteration"})


def normalised(document: Mapping[str, object]) -> Json:
    """Return a dashboard without the keys that belong to one server."""
    return {key: value for key, value in document.items() if key not in SERVER_KEYS}


def differences(ours: object, theirs: object, where: str = "") -> list[str]:
    """Return the parts of our document that are missing or different in theirs, as paths with both values.

    Keys that only the server has are its defaults, and no difference.

    >>> differences({"title": "a", "panels": [1]}, {"title": "b", "panels": [1], "style": "dark"})
    ["/title: ours 'a', theirs 'b'"]
    """
    return list(_walk(ours, theirs, where))


def _walk(ours: object, theirs: object, where: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from _walk(value, theirs[key], f"{where}/{key}")
            elif value is not None:
                yield f"{where}/{key}: missing there"
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            yield f"{where}: ours has {len(ours)} entries, theirs {len(theirs)}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from _walk(mine, other, f"{where}/{index}")
    elif ours != theirs:
        yield f"{where}: ours {_short(ours)}, theirs {_short(theirs)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
