"""The hosts for which the service answers, so that a web page cannot reach it under a name of its own.

A page that resolves its own name to this machine's address sends that name in `Host`. Names are therefore refused
unless they are listed; an address, or `localhost`, cannot be such a page's name.

Source: RFC 9110, sections 7.2 (Host) and 15.5.20 (421 Misdirected Request); DNS rebinding.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

LOCAL: Final = "localhost"
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_BAD_REQUEST, _MISDIRECTED = 400, 421


class Hosts:
    """The allowed names."""

    def __init__(self, names: Sequence[str]) -> None:
        """Prepare the check.

        Args:
            names: Names without ports, in any case; empty ones are ignored.
        """
        self._names = {LOCAL, *(name.strip().lower() for name in names if name.strip())}

    def refusal(self, values: Sequence[bytes]) -> int | None:
        """Return the status of a refusal, or None for a host that is served.

        Args:
            values: Values of all `Host` headers of a request.

        >>> Hosts(["shop.example"]).refusal([b"Shop.Example:8080"]), Hosts([]).refusal([b"127.0.0.1:8080"])
        (None, None)
        >>> Hosts([]).refusal([b"evil.example"]), Hosts([]).refusal([]), Hosts([]).refusal([b"a@localhost"])
        (421, 400, 400)
        """
        found = _HOST.fullmatch(values[0].decode("latin-1")) if len(values) == 1 else None
        if found is None:
            return _BAD_REQUEST
        name = found.group(1).lower().removesuffix(".")
        return None if name in self._names or name.endswith(f".{LOCAL}") or _is_address(name) else _MISDIRECTED


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
