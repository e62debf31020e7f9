"""Adapters from the event formats of other systems to records of Shelfwise: pure functions, one module per format.

The same payload gives the same records with the same ids, so sending it again changes nothing. A new format is a module
with `NAME` and `adapt`, and its entry in `FORMATS`.

Source: docs/adapters.md.
"""

from collections.abc import Callable, Mapping

from stream.adapters import ga4, metarank, own, segment, snowplow, source, ubi
from stream.adapters.results import Adapted, Options, Rejected, Result, rejected, with_hashed_ids
from stream.errors import SchemaError

FORMATS: Mapping[str, Callable[[bytes, Options], list[Result]]] = {
    module.NAME: module.adapt for module in (own, ubi, ga4, segment, snowplow, metarank)
}
"""Name of a format to its adapter."""


def adapt(name: str, raw: bytes, options: Options | None = None) -> tuple[list[Adapted], list[Rejected]]:
    """Return the records and the rejects of one payload of a format. No payload raises an error.

    >>> _, (reject,) = adapt("metarank", b'{"event": "item"}')
    >>> reject.reason, reject.kind, reject.detail
    ('unmapped', 'item', "'item' has no counterpart - at `$.event`")
    """
    try:
        chosen = options or Options()
        results = FORMATS[name](raw, chosen)
        if chosen.client_id_key:
            results = [_with_hashed_ids(result, raw, chosen.client_id_key) for result in results]
    except Exception as error:  # noqa: BLE001 - a fault of an adapter is a dead letter too: other payloads must go on
        return [], [Rejected(reason="internal", detail=repr(error)[:200], raw=source.scrubbed(raw))]
    adapted = [result for result in results if isinstance(result, Adapted)]
    return adapted, [result for result in results if isinstance(result, Rejected)]


def _with_hashed_ids(result: Result, raw: bytes, key: bytes) -> Result:
    if isinstance(result, Rejected):
        return result
    try:
        return with_hashed_ids(result, key)
    except SchemaError as fault:
        return rejected(fault, source.scrubbed(raw))


__all__ = ["FORMATS", "Adapted", "Options", "Rejected", "Result", "adapt"]
