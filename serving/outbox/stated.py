"""Fields of posted events that only the ranking service states: who decided on a list, and how.

An impression with an arm, a version or a propensity that a caller made up would count in an experiment and train a
model. The service writes the impressions of its own answers to the broker itself, so no caller needs these fields.

Source: docs/serving.md.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from stream.errors import ShelfwiseError
from stream.schemas.problems import Problem


class StatedError(ShelfwiseError):
    """A posted event with a field that only the ranking service states; `problem` names it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.field}: {problem.error}")
        self.problem = problem


class _Event(Struct):
    assignment: Raw | UnsetType = UNSET
    lineage: Raw | UnsetType = UNSET
    version: Raw | UnsetType = UNSET
    slice: Raw | UnsetType = UNSET
    features: Raw | UnsetType = UNSET
    items: Raw | UnsetType = UNSET


class _Items(Struct):
    propensity: Raw | UnsetType = UNSET


_FIELDS: Final = ("assignment", "lineage", "version", "slice", "features")
_event = msgspec.json.Decoder(_Event).decode
_items = msgspec.json.Decoder(_Items).decode
_SHOWN: Final = 80


def check(payloads: Sequence[bytes]) -> None:
    """Refuse events that state what only the service may state; payloads that are no objects have no fields.

    Raises:
        StatedError: If one of the events has such a field, with any value.
    """
    for index, payload in enumerate(payloads):
        for field, value in _stated(payload):
            shown = bytes(value)[:_SHOWN].decode(errors="replace")
            error = "only the ranking service states this field; leave it out"
            raise StatedError(Problem(error=error, field=f"[{index}].{field}", value=shown))


def _stated(payload: bytes) -> list[tuple[str, Raw]]:
    try:
        event = _event(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    values = [(field, getattr(event, field)) for field in _FIELDS]
    if not isinstance(event.items, UnsetType):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            values.append(("items.propensity", _items(event.items).propensity))
    return [(field, value) for field, value in values if not isinstance(value, UnsetType)]
