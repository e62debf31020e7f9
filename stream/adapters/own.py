"""Our own events as JSON, told apart by `action_name` (`stream.schemas.events`); their bytes stay as they are."""

from collections.abc import Mapping

from stream.adapters import source
from stream.adapters.results import Options, Result, accepted, rejected
from stream.adapters.source import as_fields, unmapped
from stream.errors import SchemaError
from stream.schemas import topics
from stream.schemas.events import MAX_EVENT_BYTES

NAME = "shelfwise"
_TOPICS: Mapping[str, str] = {
    "impression": topics.IMPRESSIONS,
    "click": topics.CLICKS,
    "add_to_cart": topics.CLICKS,
    "purchase": topics.CONVERSIONS,
    "cancel": topics.CONVERSIONS,
    "refund": topics.CONVERSIONS,
}


def adapt(raw: bytes, options: Options) -> list[Result]:  # noqa: ARG001 - all adapters are called alike
    """Return the record in `raw`."""
    try:
        return [accepted(_topic(raw), raw)]
    except SchemaError as fault:
        return [rejected(fault, source.scrubbed(raw))]


def _topic(raw: bytes) -> str:
    if len(raw) > MAX_EVENT_BYTES:
        raise SchemaError("too_large", f"{len(raw)} bytes, at most {MAX_EVENT_BYTES}")
    event = as_fields(source.parse(raw))
    name = event.text("action_name") or "impression"
    if name not in _TOPICS:
        raise unmapped(name, event.at("action_name"))
    return _TOPICS[name]
