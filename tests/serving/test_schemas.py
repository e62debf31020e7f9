import json

import pytest

from serving.schemas import RequestError, decode
from tests.serving.world import body


def refused(document: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(json.dumps(document).encode())
    return caught.value


def test_a_valid_request_is_decoded() -> None:
    found = decode(json.dumps(body("c-9", num_candidates=3)).encode())
    assert (found.client_id, [c.item_id for c in found.candidates]) == ("c-9", ["i-0", "i-1", "i-2"])


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"client_id": 7}, "client_id", "7"),
        ({"currency": "euro"}, "currency", '"euro"'),
        ({"candidates": []}, "candidates", "[]"),
        ({"candidates": [{"item_id": "a"}, {"item_id": "b", "price_minor": -1}]}, "candidates[1].price_minor", "-1"),
        ({"candidates": [{"item_id": "a"}, {"item_id": "a"}]}, "candidates[1].item_id", "a"),
        ({"query": {"text": "x", "hash": "y"}}, "query.hash", "y"),
        ({"query": {"vector": [0.5, 70_000]}}, "query.vector[1]", "70000"),
        ({"query": {"txt": "x"}}, "query.txt", '"x"'),
        ({"colour": "red"}, "colour", '"red"'),
        ({"event_ts": 1.5}, "event_ts", "1.5"),
    ],
)
def test_a_refusal_names_field_and_value(changes: dict[str, object], field: str, value: str) -> None:
    problem = refused(body(**{"client_id": "c-1", **changes})).problem  # type: ignore[arg-type]
    assert (problem.field, problem.value) == (field, value)


def test_a_missing_field_is_named() -> None:
    document = body()
    del document["query"]
    problem = refused(document).problem
    assert (problem.field, problem.value) == ("query", None)


def test_more_than_a_thousand_candidates_are_refused() -> None:
    problem = refused(body(num_candidates=1_001)).problem
    assert problem.field == "candidates"
    assert len(problem.value or "") < 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"client_id": NaN}',
        b"[" * 100_000,
        b'{"client_id": 7, ',
        b'{"client_id": "\xff"}',
        b'{"client_id": "\\ud800"}',
        b"null",
    ],
)
def test_bytes_that_are_no_request_are_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        decode(raw)
