"""Reading a source's JSON: strict, numbers exact, every fault named with its path, what was not read kept.

`Fields` remembers which names were read, so that the others become `attributes`. Texts that people typed, addresses
and the like are never kept: the schema stores a keyed hash of the query and pseudonyms only.
"""

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial

import msgspec

from stream.adapters import times
from stream.errors import SchemaError

MAX_SOURCE_BYTES = 1 << 20
MAX_DEPTH = 32
_MAX_DIGITS = 40

PRIVATE = frozenset(
    {
        *("user_query", "search_term", "search_query", "query", "query_text", "q", "message"),
        *("email", "phone", "address", "ip", "ip_address", "user_ip", "user_ipaddress"),
        *("useragent", "user_agent", "page_location", "page_referrer", "page_url", "page_title", "url"),
        *("referrer", "path", "search", "title"),
    }
)
"""Names whose values may hold the text of a query or say who the client is."""


_QUERY_TEXTS = frozenset({"user_query", "search_term", "search_query", "query", "query_text", "q"})
_REMOVED = (PRIVATE - _QUERY_TEXTS) | {
    *("writekey", "write_key", "api_key", "api_secret", "apikey", "authorization", "access_token", "token", "secret"),
    *("password", "traits", "first_name", "last_name", "firstname", "lastname", "phone_number", "user_properties"),
}
"""Names of keys, tokens and personal data: no id depends on them, and no dead letter holds them."""
_REMOVED_BYTES = re.compile(
    rb'("(?:' + b"|".join(sorted(map(re.escape, (name.encode() for name in _REMOVED)))) + rb')"\s*:\s*)"[^"]*"?',
    re.IGNORECASE,
)


def parse(raw: bytes) -> object:
    """Return the JSON in `raw`; fractions are `Decimal`.

    Raises:
        SchemaError: With a reason code, see docs/stream.md.
    """
    if len(raw) > MAX_SOURCE_BYTES:
        raise SchemaError("too_large", f"{len(raw)} bytes, at most {MAX_SOURCE_BYTES}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        raise SchemaError("not_utf8", f"byte {fault.start}") from fault
    try:
        content: object = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_decimal, parse_int=_integer
        )
        if _depth(content) > MAX_DEPTH:
            raise SchemaError("too_deep", f"at most {MAX_DEPTH}")
        if "\\ud" in text.lower():
            _encode_again(content)
    except RecursionError as fault:
        raise SchemaError("too_deep", f"at most {MAX_DEPTH}") from fault
    except UnicodeEncodeError as fault:
        raise SchemaError("not_json", "half of a surrogate pair") from fault
    except json.JSONDecodeError as fault:
        raise SchemaError("not_json", str(fault)[:200]) from fault
    return content


def events(raw: bytes) -> list["Fields"]:
    """Return the events in `raw`: one object, or an array of objects as collectors post them.

    Raises:
        SchemaError: If it is neither.
    """
    content = parse(raw)
    if isinstance(content, list):
        return [as_fields(event, f"$[{index}]") for index, event in enumerate(content)]
    return [as_fields(content)]


def canonical(content: object) -> str:
    """Return a text that is equal for equal JSON: the order of keys, white space and removed names do not count."""
    return json.dumps(redacted(content), sort_keys=True, separators=(",", ":"), default=str)


def redacted(content: object) -> object:
    """Return JSON without keys, tokens and personal data, also where a name and its value are a pair."""
    if isinstance(content, Mapping):
        return {name: redacted(value) for name, value in content.items() if str(name).lower() not in _REMOVED}
    if isinstance(content, list):
        return [redacted(value) for value in content if not _is_removed_pair(value)]
    return content


def scrubbed(raw: bytes) -> bytes:
    """Return a payload without keys, tokens and personal data: its own bytes where it has none."""
    try:
        content = parse(raw)
    except SchemaError:
        return _REMOVED_BYTES.sub(rb'\1""', raw)
    kept = redacted(content)
    return raw if kept == content else encode(kept)


def encode(content: object) -> bytes:
    """Return the JSON bytes of what `parse` has returned."""
    return _encoder.encode(_encodable(content))


class Fields:
    """One object of a source, and where it stands.

    Attributes:
        content: The object.
        path: Its path in the payload.
        alone: The payload that holds this event only.
        alone_path: Path of the event in `alone`.
    """

    def __init__(
        self, content: Mapping[str, object], path: str = "$", *, alone: object = None, alone_path: str = "$"
    ) -> None:
        self.content = content
        self.path = path
        self.alone = content if alone is None else alone
        self.alone_path = alone_path
        self._read: set[str] = set()

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}"

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self.content.get(name) is not None

    def get(self, name: str) -> object:
        """Return a field as it stands, None if absent."""
        self._read.add(name)
        return self.content.get(name)

    def skip(self, *names: str) -> None:
        """Mark fields that shall not become attributes."""
        self._read.update(names)

    def text(self, *names: str) -> str | None:
        """Return the first of these fields that is there and not empty; a number is taken as its text.

        Raises:
            SchemaError: If it is neither text nor a number.
        """
        found = None
        for name in names:
            value = self.get(name)
            if found is not None or value is None or value == "":
                continue
            if isinstance(value, str):
                found = value
            elif isinstance(value, int) and not isinstance(value, bool):
                found = str(value)
            elif isinstance(value, Decimal):
                found = f"{value:f}"
            else:
                raise wrong("str", value, self.at(name))
        return found

    def required(self, *names: str) -> str:
        """Return the first of these texts.

        Raises:
            SchemaError: If none is there.
        """
        found = self.text(*names)
        if found is None:
            raise self.missing(*names)
        return found

    def number(self, name: str) -> Decimal | None:
        """Return a number exactly, also one in quotes.

        Raises:
            SchemaError: If it is none.
        """
        value = self.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
            raise wrong("number", value, self.at(name))
        try:
            return Decimal(value if not isinstance(value, str) else value[:_MAX_DIGITS])
        except InvalidOperation as fault:
            raise wrong("number", value, self.at(name)) from fault

    def count(self, name: str) -> int | None:
        """Return an integer of at least 1.

        Raises:
            SchemaError: If it is something else.
        """
        value = self.number(name)
        if value is None:
            return None
        if not value.is_finite() or value < 1 or value.adjusted() > 9 or value != value.to_integral_value():
            raise SchemaError("bad_value", f"expected an integer of at least 1, got {value} - at `{self.at(name)}`")
        return int(value)

    def position(self, name: str, base: int) -> int | None:
        """Return a position counted from 1, or None where the source's is absent or outside of its own base."""
        value = self.content.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
            value = int(value)
        if isinstance(value, Decimal) and value.is_finite() and value.adjusted() <= 6 and value == int(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not base <= value < 100_000 + base:
            return None
        self._read.add(name)
        return value - base + 1

    def time(self, *names: str, unit: int = times.MILLIS, naive_is_utc: bool = False) -> int:
        """Return the first of these times: ISO 8601, or a number in `unit`, also in quotes.

        Raises:
            SchemaError: If none is there, or the first one cannot be read.
        """
        for name in names:
            value = self.get(name)
            if value is None or value == "":
                continue
            if isinstance(value, str) and not value.isdigit():
                return times.from_iso(value, self.at(name), naive_is_utc=naive_is_utc)
            return times.from_number(self.number(name) or Decimal(0), unit, self.at(name))
        raise self.missing(*names)

    def fields(self, name: str) -> "Fields":
        """Return an inner object; an empty one where there is none.

        Raises:
            SchemaError: If it is no object.
        """
        value = self.get(name)
        if value is None:
            return Fields({}, self.at(name))
        return as_fields(value, self.at(name))

    def rows(self, name: str) -> list["Fields"]:
        """Return a list of objects; an empty one where there is none.

        Raises:
            SchemaError: If it is something else.
        """
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong("array", value, self.at(name))
        return [as_fields(row, f"{self.at(name)}[{index}]") for index, row in enumerate(value)]

    def rest(self) -> dict[str, object]:
        """Return what was not read, without private names and names that start with `$`."""
        return {
            name: _plain(value)
            for name, value in self.content.items()
            if name not in self._read and name.lower() not in PRIVATE and not name.startswith("$") and value is not None
        }

    def missing(self, *names: str) -> SchemaError:
        """Return the fault of absent fields."""
        return SchemaError("missing_field", f"Object missing required field `{' or '.join(names)}` - at `{self.path}`")


def as_fields(value: object, path: str = "$") -> Fields:
    """Return `value` for reading.

    Raises:
        SchemaError: If it is no object.
    """
    if not isinstance(value, dict):
        raise wrong("object", value, path)
    return Fields(value, path)


class UnmappedError(SchemaError):
    """An event of a kind that has no counterpart here.

    Attributes:
        kind: Name of the kind, cut to 80 characters.
    """

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind[:80]
        super().__init__("unmapped", f"{self.kind!r} has no counterpart - at `{path}`")


def unmapped(kind: str, path: str) -> UnmappedError:
    """Return the fault of an event that has no counterpart here."""
    return UnmappedError(kind, path)


def rest_of(rows: Iterable[Fields]) -> list[dict[str, object]]:
    """Return what was not read of each row, or nothing where all was read everywhere."""
    kept = [row.rest() for row in rows]
    return kept if any(kept) else []


def wrong(expected: str, value: object, path: str) -> SchemaError:
    """Return the fault of a value of another type."""
    return SchemaError("wrong_type", f"Expected `{expected}`, got `{type(value).__name__}` - at `{path}`")


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if name.lower() not in PRIVATE}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _depth(content: object) -> int:
    if isinstance(content, dict):
        return 1 + max(map(_depth, content.values()), default=0)
    if isinstance(content, list):
        return 1 + max(map(_depth, content), default=0)
    return 0


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise SchemaError("double_key", f"key {double[:80]!r}")
    return unique


def _refuse(text: str) -> object:
    raise SchemaError("bad_number", f"number {text}")


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if len(text) > _MAX_DIGITS or (number and abs(number.adjusted()) > _MAX_DIGITS):
        raise SchemaError("bad_number", f"number {text[:_MAX_DIGITS]}")
    return number


def _integer(text: str) -> int:
    if len(text) > 20:
        raise SchemaError("bad_number", f"number of {len(text)} digits")
    return int(text)


def _is_removed_pair(value: object) -> bool:
    if not isinstance(value, dict) or "value" not in value:
        return False
    return str(value.get("key", value.get("name"))).lower() in _REMOVED


def _encodable(content: object) -> object:
    if isinstance(content, Mapping):
        return {name: _encodable(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_encodable(value) for value in content]
    if isinstance(content, int) and not isinstance(content, bool) and abs(content) >> 63:
        return Decimal(content)
    return content


_encoder = msgspec.json.Encoder(decimal_format="number")
_encode_again = partial(msgspec.json.encode, enc_hook=str)
