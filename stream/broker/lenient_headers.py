"""Names of Kafka headers that are no text: Kafka takes any bytes, Python's clients fail at those that are no UTF-8."""

from typing import Any, SupportsIndex


class _Name(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class LenientBuffer(bytearray):
    r"""The bytes of records, for parsers that cut header names out of it and decode them, and nothing else.

    >>> LenientBuffer(b"name \xff")[:].decode()
    'name \\xff'
    """

    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        found = super().__getitem__(at)
        return _Name(found) if isinstance(found, bytearray) else found
