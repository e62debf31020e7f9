from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error, response_schema_conformance, status_code_conformance

from serving.http import openapi
from serving.schemas import RequestError, decode
from serving.settings import ServingSettings
from tests.serving.live import live
from tests.serving.world import World, body


def validator(name: str) -> Draft202012Validator:
    document = openapi.document()
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def test_the_document_is_valid_and_accepts_what_the_service_accepts() -> None:
    Draft202012Validator.check_schema(openapi.document()["components"])  # type: ignore[arg-type]
    validator("RankRequest").validate(body())
    assert list(validator("RankRequest").iter_errors(body(currency="euro")))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_generated_requests_meet_no_server_error(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    service = world.service(ServingSettings(default_lineage="base", deadline_ms=5_000.0, trust_event_ts=True))
    schema = schemathesis.openapi.from_dict(dict(openapi.document()))
    cases = schema[openapi.RANK]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    statuses: Counter[int] = Counter()
    with live(service) as address:

        @seed(3)
        @settings(
            max_examples=50,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def ask(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=address)
            statuses[response.status_code] += 1
            case.validate_response(
                response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
            )

        ask()
    assert sum(statuses.values()) >= 50
    assert statuses[200 if mode == "positive" else 400] > 0


@given(raw=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_answered_or_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        decode(raw)


def test_answers_conform(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with live(world.service(ServingSettings(default_lineage="base", deadline_ms=5_000.0))) as address:
        answer = httpx.post(f"{address}/v1/rank", json=body())
        assert answer.status_code == 200
        validator("RankAnswer").validate(answer.json())
        validator("Health").validate(httpx.get(f"{address}/readyz").json())
        validator("Problem").validate(httpx.post(f"{address}/v1/rank", content=b"{").json())
