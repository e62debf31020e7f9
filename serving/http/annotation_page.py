"""The page on which annotators judge items: one static file, whose policy allows its own script and style alone.

Source: Content Security Policy Level 3, hashes of inline elements.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).with_name("annotate.html")


@dataclass(frozen=True, slots=True)
class StaticPage:
    """Content and headers."""

    content: bytes
    headers: Mapping[str, str]


def page() -> StaticPage:
    """Return the page with its headers."""
    content = _FILE.read_bytes()
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"script-src {_hash_of(b'script', content)}; style-src {_hash_of(b'style', content)}"
    )
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return StaticPage(content, headers)


def _hash_of(element: bytes, content: bytes) -> str:
    (inside,) = re.findall(rb"<%b>(.*?)</%b>" % (element, element), content, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
