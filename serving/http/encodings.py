"""Decoding of compressed request bodies with a bounded size.

Source: RFC 9110, section 8.4 (Content-Encoding); RFC 7694 (the answer of a server that knows other codings).
"""

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

from serving.schemas import RequestError
from stream.errors import ShelfwiseError
from stream.schemas.problems import Problem

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
MOST_MEMBERS: Final = 100
"""Members of a gzip body: each costs a decoder and a copy of the rest, and an empty one takes 20 bytes."""
# A frame may ask for a window of gigabytes.
_MOST_WINDOW_BYTES = 8 << 20


class UnknownEncodingError(ShelfwiseError):
    """A request body in a coding that this service does not know."""


class TooLargeError(ShelfwiseError):
    """A request body above the limit after its decompression."""


def content(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Return the content of a request body.

    Args:
        body: Bytes as received.
        encoding: Value of the header `Content-Encoding`; empty without one.
        max_bytes: Size of the content above which it is refused.

    Raises:
        UnknownEncodingError: If the coding is none of `ENCODINGS`, or several were applied.
        TooLargeError: If the content is larger than `max_bytes`.
        RequestError: If the body is damaged.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    decode = _DECODERS.get(name)
    if decode is None:
        raise UnknownEncodingError(f"Content-Encoding '{encoding}' is not one of {ENCODINGS}")
    try:
        found = decode(body, max_bytes + 1)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise RequestError(Problem(error=f"the body is no valid {name}: {error}")) from error
    if len(found) > max_bytes:
        raise TooLargeError(f"the body holds more than {max_bytes} bytes after its decompression")
    return found


def _inflate(body: bytes, max_bytes: int, window: int) -> tuple[bytes, bytes]:
    """Return the content of one stream, cut off at `max_bytes`, and what follows the stream."""
    stream = zlib.decompressobj(window)
    found = stream.decompress(body, max_bytes)
    if len(found) < max_bytes and not stream.eof:
        raise EOFError("it ends too early")
    return found, stream.unused_data


def _gzip(body: bytes, max_bytes: int) -> bytes:
    found = b""
    for _ in range(MOST_MEMBERS):
        more, body = _inflate(body, max_bytes - len(found), _GZIP)
        found += more
        if not body or len(found) >= max_bytes:
            return found
    raise EOFError(f"it has more than {MOST_MEMBERS} members")


def _deflate(body: bytes, max_bytes: int) -> bytes:
    try:
        found, rest = _inflate(body, max_bytes, _ZLIB)
    except zlib.error:
        # Some clients leave out the header that the name of the coding asks for.
        found, rest = _inflate(body, max_bytes, _RAW)
    if rest:
        raise EOFError("bytes follow its end")
    return found


def _zstd(body: bytes, max_bytes: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    with decoder.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
        return reader.read(max_bytes)


_DECODERS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
ENCODINGS = "gzip, deflate, zstd, identity"
"""Known codings, as the header `Accept-Encoding` of a refusal names them."""
