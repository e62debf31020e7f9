"""Payloads of recorded event files: several files, compressed or not, one payload per line or as JSON arrays.

A file is read as a stream with bounded memory, so pipes and FIFOs work like files.

| file | payloads |
|---|---|
| lines | one per line; a line that is a JSON array holds one per element |
| one or more JSON arrays, on one line or several | one per element |
| `.gz`, `.zst`, by their first bytes | as the content |
| bulk file of OpenSearch | the documents; action lines such as `{"index": {}}` are skipped |

A byte order mark of UTF-8 is dropped. UTF-16, Parquet, Avro and zip are refused by name.
"""

import codecs
import glob
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard

from stream.adapters.source import MAX_SOURCE_BYTES
from stream.errors import ShelfwiseError

STANDARD_INPUT = "-"
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 2 * MAX_SOURCE_BYTES
_json = json.JSONDecoder()
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BINARY = {
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
    b"PK\x03\x04": "zip",
}
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_STEP_BYTES = 1 << 14
_ACTION = re.compile(rb'\s*\{\s*"(?:index|create|delete)"\s*:\s*\{[^{}]*\}\s*\}\s*')
_SEPARATORS = re.compile(r"[\s,]*")


class EventFileError(ShelfwiseError):
    """A file of events is missing, unreadable, damaged or of an unsupported encoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One payload as it stands in a file.

    Attributes:
        file: Name of the file, as given or found.
        number: Line in which the payload ends, or number of the element in an array of several lines; from 1.
        raw: Bytes of the payload.
    """

    file: str
    number: int
    raw: bytes


def find(names: Iterable[str]) -> list[str]:
    """Return the files that names and glob patterns stand for, in the order given; matches of a pattern are sorted.

    A file that exists is taken as it is, also if its name could be read as a pattern.

    Args:
        names: Paths, patterns such as `events-*.jsonl.gz`, or `-` for standard input.

    Raises:
        EventFileError: If a path does not exist, is a folder, or a pattern matches nothing.
    """
    found: list[str] = []
    for name in names:
        if name == STANDARD_INPUT or Path(name).exists():
            if Path(name).is_dir():
                raise EventFileError(f"{name} is a folder; name its files, for example '{name.rstrip('/')}/*'")
            found.append(name)
        elif glob.has_magic(name):
            # Path.glob takes no absolute pattern.
            matched = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            matches = [match for match in matched if not Path(match).is_dir()]
            if not matches:
                raise EventFileError(f"no file matches '{name}'")
            found += matches
        else:
            raise EventFileError(f"{name} does not exist")
    return found


class EventFiles:
    """Payloads of several files, in order; each iteration reads the files anew.

    Attributes:
        files: Paths as `find` returns them.
        num_skipped: Action lines of bulk files that were left out.
    """

    def __init__(self, files: Sequence[str], standard_input: IO[bytes] | None = None) -> None:
        """Describe the files; nothing is read.

        Args:
            files: Paths as `find` returns them.
            standard_input: Bytes that `-` stands for; the process's standard input by default.
        """
        self.files = files
        self.num_skipped = 0
        self._standard_input = standard_input

    def __iter__(self) -> Iterator[Payload]:
        """Yield the payloads.

        Raises:
            EventFileError: If a file cannot be read, is damaged or is not UTF-8; the message names the file.
        """
        for file in self.files:
            with _opened(file, self._standard_input) as stream:
                yield from self._of_stream(file, stream)

    def _of_stream(self, file: str, stream: io.BufferedReader) -> Iterator[Payload]:
        if stream.peek(_CHUNK_BYTES).lstrip()[:1] == b"[":
            yield from (Payload(file=file, number=n, raw=raw) for n, raw in enumerate(_array_elements(stream), start=1))
            return
        for number, line in enumerate(_bounded_lines(stream), start=1):
            raw = line.rstrip(b"\r\n")
            text = raw.strip()
            if not text:
                continue
            if _ACTION.fullmatch(text):
                self.num_skipped += 1
                continue
            elements = _array_elements(io.BytesIO(text)) if text.startswith(b"[") else (raw,)
            yield from (Payload(file=file, number=number, raw=element) for element in elements)


def lines(file: str, standard_input: IO[bytes] | None = None) -> Iterator[bytes]:
    """Yield the lines of one file as they stand, decompressed and without a byte order mark.

    Raises:
        EventFileError: If the file cannot be read, is damaged or is not UTF-8; the message names it.
    """
    with _opened(file, standard_input) as stream:
        yield from stream


@contextmanager
def _opened(file: str, standard_input: IO[bytes] | None) -> Iterator[io.BufferedReader]:
    # Faults of a compressed file come up while its lines are read, so that the caller's loop stands inside.
    try:
        if file == STANDARD_INPUT:
            yield _text_of(file, standard_input or sys.stdin.buffer)
        else:
            with Path(file).open("rb", buffering=_CHUNK_BYTES) as opened:
                yield _text_of(file, opened)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EventFileError(f"{file}: {reason}") from error


def _text_of(file: str, raw: IO[bytes]) -> io.BufferedReader:
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, raw), _CHUNK_BYTES)
    stream = _decompressed(buffered)
    start = stream.peek(8)[:8]
    for mark, name in _BINARY.items():
        if start.startswith(mark):
            raise EventFileError(f"{file} is a file of {name}; export the events as JSON lines")
    if start.startswith(_UTF16) or (len(start) > 1 and 0 in start[:2]):
        raise EventFileError(f"{file} is encoded as UTF-16; convert it to UTF-8, for example with iconv")
    if start.startswith(_BOM):
        stream.read(len(_BOM))
    return stream


def _decompressed(stream: io.BufferedReader) -> io.BufferedReader:
    start = stream.peek(4)[:4]
    if start.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), _CHUNK_BYTES)
    if start.startswith(_ZSTD):
        return io.BufferedReader(_Zstandard(stream), _CHUNK_BYTES)
    return stream


class _Zstandard(io.RawIOBase):
    """Content of a zstd file of one or more frames; zstandard's own reader takes a truncated file for a whole one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._content:
            self._compressed = self._compressed or self._stream.read(_ZSTD_STEP_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._content = memoryview(self._frame.decompress(self._compressed))
            self._compressed = b""
            if self._frame.eof:
                self._compressed = self._frame.unused_data
                self._frame = None
        target = memoryview(buffer)
        length = min(len(target), len(self._content))
        target[:length] = self._content[:length]
        self._content = self._content[length:]
        return length


def _bounded_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    # An adapter refuses a longer line for its size: its beginning is enough.
    while line := stream.readline(_MOST_BYTES):
        whole = line
        while not line.endswith(b"\n") and len(line) == _MOST_BYTES:
            line = stream.readline(_MOST_BYTES)
        yield whole


def _array_elements(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the elements of one or more JSON arrays, as they stand; of what is no JSON, the rest of the line."""
    text = _Text(stream)
    inside = False
    while (found := text.next_character()) is not None:
        if found == ("]" if inside else "["):
            inside = not inside
            text.take(1)
        else:
            yield text.take_value()


class _Text:
    """Text of a byte stream, read as far as it is needed; bytes that are no UTF-8 survive the round trip."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text = ""
        self._at = 0

    def next_character(self) -> str | None:
        """Return the next character that is neither white space nor a comma, or None at the end."""
        while True:
            separators = _SEPARATORS.match(self._text, self._at)
            assert separators is not None
            self._at = separators.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return None

    def take(self, length: int) -> bytes:
        """Return the next `length` characters as bytes, and move past them."""
        taken = self._text[self._at : self._at + length]
        self._at += length
        return taken.encode(errors="surrogateescape")

    def take_value(self) -> bytes:
        """Return the JSON value that begins here, or the rest of the line if there is none."""
        while True:
            try:
                _, end = _json.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError):
                if len(self._text) - self._at > _MOST_BYTES or not self._fill():
                    end = self._text.find("\n", self._at)
                    return self.take((end if end >= 0 else len(self._text)) - self._at)
            else:
                return self.take(end - self._at)

    def _fill(self) -> bool:
        raw = self._stream.read(_CHUNK_BYTES)
        self._text = self._text[self._at :] + self._decoder.decode(raw, final=not raw)
        self._at = 0
        return bool(raw)
