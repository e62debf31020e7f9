"""Fields of settings records: their dotted keys, descriptions, secrets and texts.

Records are frozen dataclasses. The description of a field stands in the `Attributes:` section of the class' docstring,
or of a base class. The fields of a record inside a record have dotted keys.
"""

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from typing import Literal

MASK = "********"
FILE_SUFFIX = "_file"
"""End of the key that names the file of a secret."""
Secrecy = Literal["", "value", "url"]
_SECRECY = "shelfwise.secrecy"
_PRIVATE_FILE = "shelfwise.private_file"


def secret(*, url: bool = False, private_file: bool = False) -> str:
    """Declare a field whose value is never printed and which can also come from the file `<field>_file`.

    Args:
        url: The value is a URL that may hold a password; only the password is masked.
        private_file: The file is refused if others than its owner may read or write it.

    Example:
        A record declares `password: str = secret()`.
    """
    secrecy: Secrecy = "url" if url else "value"
    return field(default="", repr=False, metadata={_SECRECY: secrecy, _PRIVATE_FILE: private_file})


def secrecy_of(declared: Field[object]) -> Secrecy:
    """Return how much of a field's value is secret."""
    found: Secrecy = declared.metadata.get(_SECRECY, "")
    return found


def has_private_file(declared: Field[object]) -> bool:
    """Return whether the file of a secret is refused if others than its owner may open it."""
    return bool(declared.metadata.get(_PRIVATE_FILE))


def descriptions(kind: type) -> dict[str, str]:
    """Return the description of each field, from the `Attributes:` sections of the class and its bases."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found |= _attributes(one)
    return found


def _attributes(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    for line in attributes.splitlines():
        if start := re.match(r" {4}(\w+): +(.+)", line):
            name = start[1]
            found[name] = start[2]
        elif line.startswith("     ") and name:
            found[name] += " " + line.strip()
        else:
            break
    return found


def keys(kind: type) -> dict[str, str]:
    """Return every key of a section with its description; a secret field has a second key that ends in `_file`."""
    described = descriptions(kind)
    hints = typing.get_type_hints(kind)
    found: dict[str, str] = {}
    for declared in fields(kind):
        if is_dataclass(inner := hints[declared.name]):
            found |= {f"{declared.name}.{key}": text for key, text in keys(inner).items()}  # type: ignore[arg-type] # a type
            continue
        found[declared.name] = described.get(declared.name, "")
        if secrecy_of(declared):
            found[declared.name + FILE_SUFFIX] = f"File that holds `{declared.name}`."
    return found


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Field[object], object]]:
    """Yield the dotted key, the field and the type of every value of a record."""
    hints = typing.get_type_hints(kind)
    for declared in fields(kind):
        hint = hints[declared.name]
        if is_dataclass(hint):
            yield from leaves(typing.cast("type", hint), f"{prefix}{declared.name}.")
        else:
            yield prefix + declared.name, declared, hint


def value_at(record: object, key: str) -> object:
    """Return the value of a record at a dotted key."""
    for name in key.split("."):
        record = getattr(record, name)
    return record


def values_by_key(section: str, record: object) -> dict[str, object]:
    """Return every value of a section by its dotted key, as plain values that survive JSON."""
    values = {f"{section}.{key}": value_at(record, key) for key, _, _ in leaves(type(record))}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def as_text(value: object) -> str:
    """Return a value as people write it; a list is `[a, b]`."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def masked(text: str, secrecy: Secrecy) -> str:
    """Return the text of a setting without its secret."""
    if secrecy == "value":
        return MASK if text else ""
    return _mask_password(text) if secrecy == "url" else text


def _mask_password(text: str) -> str:
    text = re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", rf"\g<1>{MASK}", text, flags=re.IGNORECASE)
    scheme, separator, rest = text.partition("://")
    userinfo, at, host = rest.rpartition("@")
    if not separator or not at or ":" not in userinfo:
        return text
    return f"{scheme}://{userinfo.split(':', 1)[0]}:{MASK}@{host}"
