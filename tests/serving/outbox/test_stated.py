import json
from pathlib import Path
from typing import Any

import pytest

from serving.outbox.stated import StatedError, check
from stream.schemas.events import Impression

IMPRESSION: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "docs" / "examples" / "impressions.jsonl").read_bytes()
)
FORGED: dict[str, Any] = {
    "assignment": [{"layer": "ranker", "experiment": "e", "arm": "treatment", "epoch": 1, "bucket": 3}],
    "lineage": "armmt",
    "version": "999",
    "slice": "canary",
    "features": {"schema": "0" * 64},
}


def raw(**changes: Any) -> bytes:
    return json.dumps({**IMPRESSION, **changes}).encode()


def test_events_without_such_fields_pass() -> None:
    check(
        [raw(), b'{"action_name": "click"}', b"1", b'"version"', b"[", b"\xff", b"{}", raw(items=[1]), raw(items=None)]
    )


@pytest.mark.parametrize("field", FORGED)
def test_a_field_that_only_the_service_states_is_named(field: str) -> None:
    with pytest.raises(StatedError) as refused:
        check([raw(), raw(**{field: FORGED[field]})])
    assert refused.value.problem.field == f"[1].{field}"
    assert (refused.value.problem.value or "")[:20] == json.dumps(FORGED[field])[:20]


def test_a_propensity_is_named() -> None:
    with pytest.raises(StatedError) as refused:
        check([raw(items={**IMPRESSION["items"], "propensity": [1e-6, 1.0]})])
    assert refused.value.problem.field == "[0].items.propensity"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"version": null}',
        b'{"version": "1", "version": null}',
        b'{"\\u0076ersion": "1"}',
        b'{"items": {"propensity": []}, "query": 5}',
        b'{"items": 7, "items": {"\\u0070ropensity": [0.5]}}',
        b' \n{"lineage":{"a":[[[]]]}}',
    ],
)
def test_no_form_of_json_hides_a_field(payload: bytes) -> None:
    with pytest.raises(StatedError):
        check([payload])


def test_every_such_field_is_one_of_an_impression() -> None:
    assert set(FORGED) <= set(Impression.__struct_fields__)
