"""Payloads of event files: names and patterns, compression, encodings, arrays, bulk files and pipes."""

import gzip
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import zstandard

from stream.operations.event_files import EventFileError, EventFiles, Payload, find, lines

EVENTS = [b'{"n":0}', b'{"n": 1, "t": "[,]\\n"}', '{"n":2,"t":"é"}'.encode()]
LINES = b"\n".join(EVENTS) + b"\n"
NOISE = np.random.default_rng(5).bytes(50_000)


def payloads(path: Path, content: bytes | None = None) -> list[Payload]:
    if content is not None:
        path.write_bytes(content)
    return list(EventFiles(find([str(path)])))


def raw(path: Path, content: bytes | None = None) -> list[bytes]:
    return [each.raw for each in payloads(path, content)]


def gz(content: bytes) -> bytes:
    # The header holds a time; the bytes name the cases, which must be equal in all processes of a run.
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        b"\n\r\n" + LINES.replace(b"\n", b"\r\n") + b"\n\n",
        LINES.rstrip(),
        b"\xef\xbb\xbf" + LINES,
        gz(LINES),
        gz(EVENTS[0] + b"\n") + gz(b"\n".join(EVENTS[1:])),
        gz(b"\xef\xbb\xbf" + LINES),
        zstd(LINES),
        zstd(EVENTS[0] + b"\n") + zstd(b"\n".join(EVENTS[1:])),
        b"[" + b",".join(EVENTS) + b"]",
        b" \n[\n  " + b",\n  ".join(EVENTS) + b"\n]\n",
        b"".join(b"[%s]\n" % event for event in EVENTS),
        b"[]\n[%s]\n[%s, %s]" % tuple(EVENTS),
        EVENTS[0] + b"\n[%s,%s]\n" % tuple(EVENTS[1:]),
        zstd(b"\xef\xbb\xbf[" + b",".join(EVENTS) + b"]"),
        b'{"index":{}}\n%s\n{ "create" : { "_index" : "e", "_id":"1" } }\n%s\n{"index": {}}\r\n%s\n' % tuple(EVENTS),
    ],
)  # fmt: skip
def test_the_same_events_come_out_of_each_form(content: bytes, tmp_path: Path) -> None:
    assert raw(tmp_path / "events", content) == EVENTS


def test_action_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "bulk").write_bytes(b'{"index":{}}\n%s\n{"index":{}}\n%s\n' % tuple(EVENTS[:2]))
    read = EventFiles([str(tmp_path / "bulk")])
    assert [each.number for each in read] == [2, 4]
    assert read.num_skipped == 2


def test_lines_keep_their_numbers_and_other_text_stays_as_it_is(tmp_path: Path) -> None:
    read = payloads(tmp_path / "tsv", b"\n a\tb \t\n\nnot json\n\xff\n")
    assert [(each.number, each.raw) for each in read] == [(2, b" a\tb \t"), (4, b"not json"), (5, b"\xff")]


def test_one_damaged_element_does_not_hide_the_lines_after_it(tmp_path: Path) -> None:
    damaged = b'[{"n":0},\n{"n":,\n{"n":2},\n\xff\n]'
    assert raw(tmp_path / "events", damaged) == [b'{"n":0}', b'{"n":,', b'{"n":2}', b"\xff"]
    assert raw(tmp_path / "events", b'[{"n":0},{"n":') == [b'{"n":0}', b'{"n":']


def test_a_large_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    many = [json.dumps({"n": n, "text": "x" * (n % 4_000)}).encode() for n in range(3_000)]
    assert raw(tmp_path / "events", b"[" + b",".join(many) + b"]") == many


def test_an_endless_line_is_cut_and_the_next_one_read(tmp_path: Path) -> None:
    first, second = raw(tmp_path / "events", b'{"t":"' + b"x" * (9 << 20) + b'"}\n{"n":1}\n')
    assert (len(first) < 3 << 20, second) == (True, b'{"n":1}')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{\x00}\x00", "UTF-16"),
        ("{}\n".encode("utf-16-be"), "UTF-16"),
        (gz("{}\n".encode("utf-16")), "UTF-16"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"Obj\x01\x04", "Avro"),
        (b"PK\x03\x04\x14", "zip"),
        (gz(LINES * 100)[:-12], "ended before"),
        (zstd(NOISE)[:-12], "ended before"),
        (gz(LINES)[:10] + b"\xff" * 40, ""),
        (zstd(LINES)[:6] + b"\xff" * 40, ""),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    with pytest.raises(EventFileError, match=f"{path}.*{message}"):
        payloads(path, content)
    with pytest.raises(EventFileError, match=f"{path}.*{message}"):
        list(lines(str(path)))


def test_names_and_patterns_are_found(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        (tmp_path / name).write_bytes(b"{}\n")
    (tmp_path / "folder.jsonl").mkdir()
    names = [str(tmp_path / "c[1].jsonl"), str(tmp_path / "[ab].jsonl"), "-"]
    assert find(names) == [str(tmp_path / name) for name in ("c[1].jsonl", "a.jsonl", "b.jsonl")] + ["-"]
    for missing, message in (
        (tmp_path / "nothing.jsonl", "nothing.jsonl does not exist"),
        (tmp_path / "n*.jsonl", "no file matches"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(EventFileError, match=message):
            find([str(missing)])


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EventFileError, match="gone: No such file"):
        list(EventFiles([str(tmp_path / "gone")]))


def test_a_fifo_a_descriptor_and_standard_input_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(gz(LINES)))
    writer.start()
    assert raw(fifo) == EVENTS
    writer.join()
    reading, writing = os.pipe()
    os.write(writing, LINES)
    os.close(writing)
    assert raw(Path(f"/dev/fd/{reading}")) == EVENTS
    os.close(reading)
    assert [each.raw for each in EventFiles(["-"], io.BytesIO(zstd(LINES)))] == EVENTS
    assert list(lines("-", io.BytesIO(LINES))) == LINES.splitlines(keepends=True)
