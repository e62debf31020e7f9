"""The lines of single events, and the section of the report page."""

from typing import Any

import pytest

from deploy.demo import drill_story
from deploy.demo.summary import Drill
from tests.trainer.rollout.views import lineage
from trainer.versions.event_log import Event


def event(to_status: str, version: int | None = 2, **values: Any) -> Event:
    defaults: dict[str, Any] = {
        "id": 1,
        "lineage": "prm",
        "version": version,
        "from_status": None,
        "to_status": to_status,
        "actor": "ada",
        "command": None,
        "request_id": None,
        "why": "why",
        "before": {},
        "after": {},
        "evidence": {},
        "event_ts": 1,
    }
    return Event(**(defaults | values))


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (event("published"), None),
        (event("verified"), None),
        (event("superseded"), None),
        (event("rejected", after={"versions": {"2": "rejected"}}), "prm v2 refused by gate why"),
        (
            event("rolled_back", after={"rewind_to": 1, "versions": {"1": "live", "2": "rolled_back"}}),
            "prm v2 rolled back by gate why; the trainer has to go back to v1",
        ),
        (
            event("rejected", after={"rewind_to": 1, "versions": {"3": "quarantined", "4": "quarantined"}}),
            "prm v2 refused by gate why; the trainer has to go back to v1, v3, v4 quarantined",
        ),
        (event("rewound", None), "prm: the trainer is back at fresh weights"),
        (event("rewound", 1, evidence={"skipped": None}), "prm: the trainer is back at v1"),
    ],
)
def test_each_event_of_the_story_is_one_line(told: Event, line: str | None) -> None:
    assert drill_story.line(told, lineage("live", "verified")) == line


def test_the_page_shows_the_steps_and_escapes_them() -> None:
    drill = Drill(
        lineage="prm",
        version=2,
        outcome="rejected",
        why="shadow: a < b",
        trainer_back_at=1,
        live_again=None,
        lists=0,
        steps=["one", "a < b"],
    )
    html = drill_story.section(drill)
    assert "<li>one</li><li>a &lt; b</li>" in html
    assert "refused by gate shadow: a &lt; b; it ranked no lists; the trainer went back to v1; no later version" in html
    assert drill_story.section(None) == ""
