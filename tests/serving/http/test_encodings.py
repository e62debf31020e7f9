"""Compressed request bodies: every coding that clients send, damage, and a bomb."""

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard
from litestar.testing import TestClient

from serving.http.app import create
from serving.http.encodings import ENCODINGS, MOST_MEMBERS, TooLargeError, UnknownEncodingError, content
from serving.schemas import RequestError
from serving.settings import ServingSettings
from tests.serving.world import START_MS, World, body

TEXT = b'{"event": "' + b"x" * 1_000 + b'"}'
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
BODIES = [
    ("", TEXT),
    ("identity", TEXT),
    ("gzip", gzip.compress(TEXT)),
    (" GZip ", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
    ("x-gzip", gzip.compress(TEXT)),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", RAW.compress(TEXT) + RAW.flush()),
    ("zstd", zstandard.compress(TEXT)),
    ("zstd", zstandard.compress(TEXT[:100]) + zstandard.compress(TEXT[100:])),
]


@pytest.mark.parametrize(("encoding", "sent"), BODIES)
def test_each_coding_gives_the_content(encoding: str, sent: bytes) -> None:
    assert content(sent, encoding, max_bytes=len(TEXT)) == TEXT


@pytest.mark.parametrize(("encoding", "sent"), [each for each in BODIES if each[0] not in {"", "identity"}])
def test_content_above_the_limit_is_refused(encoding: str, sent: bytes) -> None:
    with pytest.raises(TooLargeError, match="more than 1012 bytes"):
        content(sent, encoding, max_bytes=len(TEXT) - 1)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "compress"])
def test_another_coding_is_named(encoding: str) -> None:
    with pytest.raises(UnknownEncodingError, match=f"'{encoding}' is not one of gzip"):
        content(TEXT, encoding, max_bytes=10_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("sent", [TEXT, b"\x1f\x8b"])
def test_a_damaged_body_is_refused(encoding: str, sent: bytes) -> None:
    with pytest.raises(RequestError, match=f"no valid {encoding}"):
        content(sent, encoding, max_bytes=10_000)


def test_a_truncated_gzip_body_is_refused() -> None:
    with pytest.raises(RequestError, match="ends too early"):
        content(gzip.compress(TEXT)[:-9], "gzip", max_bytes=10_000)


def test_streams_behind_one_of_deflate_are_refused() -> None:
    """Each costs a copy of what follows it, and an empty one takes two bytes."""
    for one in (zlib.compress(b""), b"\x03\x00"):
        with pytest.raises(RequestError, match="no valid deflate: bytes follow its end"):
            content(one * 2, "deflate", max_bytes=10_000)


def test_a_gzip_body_has_a_limited_number_of_members() -> None:
    one = gzip.compress(b"x")
    assert content(one * MOST_MEMBERS, "gzip", max_bytes=10_000) == b"x" * MOST_MEMBERS
    with pytest.raises(RequestError, match=f"no valid gzip: it has more than {MOST_MEMBERS} members"):
        content(one * MOST_MEMBERS + gzip.compress(b""), "gzip", max_bytes=10_000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_service_takes_compressed_requests_and_answers_415_to_others(world: World) -> None:
    service = world.service(ServingSettings(deadline_ms=60_000.0, trust_event_ts=True))
    service.poll()
    with TestClient(create(service)) as client:
        asked = client.build_request("POST", "/v1/rank", json=body("c-1", event_ts=START_MS, num_candidates=5)).content
        plain = client.post("/v1/rank", content=asked)
        packed = client.post("/v1/rank", content=gzip.compress(asked), headers={"Content-Encoding": "gzip"})
        assert (packed.status_code, len(packed.json()["items"])) == (plain.status_code, 5)
        bomb = gzip.compress(b" " * (256 * 1024 + 1))
        assert client.post("/v1/events", content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
        refused = client.post("/v1/events", content=asked, headers={"Content-Encoding": "br"})
        assert (refused.status_code, refused.headers["Accept-Encoding"]) == (415, ENCODINGS)
        assert "'br'" in refused.json()["error"]
