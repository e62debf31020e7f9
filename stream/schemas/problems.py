"""Say which field of a JSON document a decoder refused, and what stood there."""

import re

import msgspec
from msgspec import Struct

_MAX_ECHO = 120
_PATH = re.compile(r" - at `(\$[^`]*)`$")
_NAMED = re.compile(r"^Object (?:contains unknown|missing required) field `([^`]*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class Problem(Struct, kw_only=True, frozen=True):
    """Reason for the refusal of a document, with the field and its value if it was one field."""

    error: str
    field: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        """Return one line for people."""
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.error}" + (f", got {self.value}" if self.value is not None and self.field else "")


def problem(message: str, body: bytes) -> Problem:
    """Return a decoder's message with the field it names and that field's value in `body`."""
    found = _PATH.search(message)
    path = found.group(1)[1:].lstrip(".") if found else ""
    named = _NAMED.match(message)
    if named:
        path = f"{path}.{named.group(1)}".lstrip(".")
    error = message[: found.start()] if found else message
    return Problem(error=error, field=path or None, value=_shown(_at(body, path)))


def _at(body: bytes, path: str) -> object:
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The first fault stood before bytes that are no JSON at all.
        return msgspec.UNSET
    for step in _STEP.finditer(f".{path}" if path else ""):
        if isinstance(value, dict):
            value = value.get(step.group(1), msgspec.UNSET)
        elif isinstance(value, list) and step.group(2) is not None:
            value = value[int(step.group(2))]
        else:
            return msgspec.UNSET
    return value


def _shown(value: object) -> str | None:
    if value is msgspec.UNSET:
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "..."
