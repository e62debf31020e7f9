from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from abtest import looks, validation
from abtest.analysis import evaluate
from abtest.moments import Moments
from tests.abtest.test_declared import EPOCHS, ONE, PLAN

COMMITTED = Path(__file__).parents[2] / "docs" / "schemas" / "experiment-report.json"
EMPTY = validation.facts_of({arm.name: validation.sample_of(Moments.empty(24), buyers=0) for arm in validation.ARMS})


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON of a report with a look and one without a client."""
    experiment = validation.experiment_of(PLAN)
    full = evaluate(experiment, EPOCHS, ONE, looks.take(experiment, ONE, 1, []))
    empty = evaluate(experiment, EPOCHS, EMPTY)
    return tuple(msgspec.json.decode(msgspec.json.encode(each)) for each in (full, empty))


def faults(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(msgspec.json.decode(COMMITTED.read_bytes()))
    return [fault.message for fault in validator.iter_errors(document)]


def test_reports_follow_the_committed_schema() -> None:
    full, empty = documents()
    assert faults(full) == faults(empty) == []
    assert full["looks"][0]["verdict"] == "ship"
    assert len(full["adjusted"]) > 1
    assert full["schema_version"] == 1
    assert empty["results"][-1]["lift"] is None, "what is undefined is null, not zero"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda document: document.pop("adjusted"), "'adjusted' is a required property"),
        (lambda document: document["results"][0].pop("reason"), "'reason' is a required property"),
        (lambda document: document.update(wall_clock=1), "'wall_clock' was unexpected"),
        (lambda document: document["looks"][0].update(z="high"), "'high' is not of type 'number'"),
        (lambda document: document.update(schema_version=2), "2 is not one of [1]"),
    ],
)
def test_the_schema_refuses_other_documents(damage: Callable[[dict[str, Any]], object], named: str) -> None:
    document, _ = documents()
    damage(document)
    (fault,) = faults(document)
    assert named in fault
