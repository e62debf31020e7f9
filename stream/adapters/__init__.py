"""Events of other conventions as records of ours: pure functions, one module per source.

No clock, no I/O: the same payload gives the same records with the same ids, so sending it again changes nothing.

Source: STREAM.md 10, ECOSYSTEM.md 2.
"""

from collections.abc import Callable, Mapping

from stream.adapters import ga4, metarank, own, segment, snowplow, ubi
from stream.adapters.results import Adapted, Options, Rejected, Result

FORMATS: Mapping[str, Callable[[bytes, Options], list[Result]]] = {
    module.NAME: module.adapt for module in (own, ubi, ga4, segment, snowplow, metarank)
}
"""Name of a format to its adapter."""


def adapt(name: str, raw: bytes, options: Options | None = None) -> list[Result]:
    """Return what becomes of one payload of a format; never raises on any bytes.

    >>> adapt("metarank", b'{"event": "item"}')
    [Rejected(reason='unmapped', detail="'item' has no counterpart - at `$.event`", raw=b'{"event": "item"}')]
    """
    try:
        return FORMATS[name](raw, options or Options())
    except Exception as fault:  # noqa: BLE001 - a fault of ours is a dead letter too: it must not hold up the others
        return [Rejected(reason="internal", detail=repr(fault)[:200], raw=raw)]


__all__ = ["FORMATS", "Adapted", "Options", "Rejected", "Result", "adapt"]
