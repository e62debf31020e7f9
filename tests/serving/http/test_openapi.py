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

from deploy.kafka.memory import MemoryBroker
from serving import run
from serving.http import openapi
from serving.http.access import OPEN, ROLES
from serving.schemas import RequestError, decode
from serving.settings import ServingSettings
from serving.tokens import Role, make
from stream import db
from tests.serving.live import live
from tests.serving.world import World, body
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.files import write_pages
from trainer.annotation.pages import rows_of

# Hypothesis sees all draws from the global generator while it generates; the Kafka client draws in its thread.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


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
    service = world.service(ServingSettings(default_lineage="base", deadline_ms=60_000.0, trust_event_ts=True))
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


POSITIVE = schemathesis.GenerationMode.POSITIVE
CALLERS = {role: make(role, lambda num, fill=fill: bytes([fill] * num)) for fill, role in enumerate(Role)}  # type: ignore[misc] # a lambda with a default
FOREIGN: dict[str | None, str] = {None: "", "unknown": "Bearer wrong", "malformed": "Basic dXNlcjpwYXNz"}


def headers_of(caller: Role | str | None) -> dict[str, str]:
    """Return the headers that name a caller: one with a role, or one without a valid token."""
    value = f"Bearer {CALLERS[caller][0]}" if isinstance(caller, Role) else FOREIGN[caller]
    return {"Authorization": value} if value else {}


def expected(path: str, caller: Role | str | None) -> set[int]:
    """Return the statuses by which a path may answer a caller."""
    if path in OPEN or ROLES[path] is caller:
        # A generated key is that of no experiment.
        return {404} if path == openapi.EXPERIMENT else {200, 400, 413, 415, 422}
    return {403} if isinstance(caller, Role) else {401}


@pytest.mark.slow
def test_every_path_answers_every_role_as_the_document_says(tmp_path: Path) -> None:
    """Generated requests, valid and not, to all operations of the document: none is a server error."""
    world = World(tmp_path)
    world.go_live("base", 1)
    tokens = " ".join(str(line) for _, line in CALLERS.values())
    pages = tmp_path / "pages.jsonl"
    write_pages(pages, rows_of(LIST, 1.0, "p100", "", {}))
    chosen = ServingSettings(
        default_lineage="base",
        deadline_ms=60_000.0,
        trust_event_ts=True,
        tokens=tokens,
        annotation_pages=str(pages),
    )
    schema = schemathesis.openapi.from_dict(dict(openapi.document()))
    operations = [operation for path in (*ROLES, *OPEN) for operation in schema[path].values()]
    assert set(schema) == set(ROLES) | OPEN
    statuses: Counter[tuple[str, Role | str | None, int]] = Counter()
    with MemoryBroker(1) as cluster:
        service = run.build(
            chosen, home=world.home, broker=cluster.broker, engine=db.create(world.url), query_hash_key=b"key"
        )
        with live(service) as address:
            for operation in operations:
                # A path without parameters and body has no other requests than valid ones.
                modes = schemathesis.GenerationMode if operation.method == "post" else [POSITIVE]
                for mode in modes:
                    cases = operation.as_strategy(generation_mode=mode)
                    _ask_as_everyone(cases, address, statuses)
    for (path, caller, status), num in statuses.items():
        assert status in expected(path, caller), (path, caller, status, num)
    assert {path for path, _, status in statuses if status == 200} == (set(ROLES) | OPEN) - {openapi.EXPERIMENT}
    assert {(path, caller) for path, caller, _ in statuses} == {
        (operation.path, caller) for operation in operations for caller in (*CALLERS, *FOREIGN)
    }


def _ask_as_everyone(
    cases: st.SearchStrategy[schemathesis.Case[Any]],
    address: str,
    statuses: Counter[tuple[str, Role | str | None, int]],
) -> None:
    @seed(5)
    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: schemathesis.Case[Any]) -> None:
        for caller in (*CALLERS, *FOREIGN):
            # The document names the scheme of tokens, so that cases come with headers of their own.
            case.headers.pop("Authorization", None)
            response = case.call(base_url=address, headers=headers_of(caller))
            statuses[case.operation.path, caller, response.status_code] += 1
            case.validate_response(
                response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
            )

    ask()


@given(raw=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_answered_or_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        decode(raw)


def test_answers_conform(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with live(world.service(ServingSettings(default_lineage="base", deadline_ms=60_000.0))) as address:
        answer = httpx.post(f"{address}/v1/rank", json=body())
        assert answer.status_code == 200
        validator("RankAnswer").validate(answer.json())
        validator("Health").validate(httpx.get(f"{address}/readyz").json())
        validator("Problem").validate(httpx.post(f"{address}/v1/rank", content=b"{").json())
