import json
from pathlib import Path

import pytest

from abtest.ramp_store import RampStore
from stream import db
from stream.errors import ConfigError
from tests.deploy.commands.test_abtest import CREATE, call, home
from trainer.versions.registry import Registry

__all__ = ["home"]

pytestmark = pytest.mark.usefixtures("home")
EVERY = ("abtest", "ramp", "first", "--every", "24h")


def test_a_planned_ramp_names_step_time_champion_and_what_is_left_out() -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    code, out = call(*EVERY, "--steps", "0.05,0.25,0.9", "--json")
    planned = json.loads(out)
    assert (code, planned["share"], planned["next_share"], planned["left_out"]) == (0, 0.01, 0.05, 0.1)
    code, out = call("abtest", "ramps")
    assert code == 3
    assert "ramp of experiment first: 0.01 of all clients, next 0.05 from " in out
    assert "frozen by lineage prm-1: no live version" in out
    assert "champion prm-1, left out 0.1" in out
    assert call("abtest", "ramp", "first", "--end-plan")[1] == "experiment first: the planned ramp has ended\n"
    assert json.loads(call("abtest", "ramp", "first", "--end-plan", "--json")[1]) == {
        "experiment": "first",
        "ended": False,
    }
    assert call("abtest", "ramps")[1] == "no ramp is planned\n"
    assert json.loads(call("abtest", "ramps", "--json")[1]) == []


def test_the_status_of_a_rollout_shows_the_ramps_of_its_lineages(home: Path) -> None:
    engine = db.create(f"sqlite:///{home / 'shelfwise.db'}")
    for lineage in ("prm-1", "other"):
        Registry(engine).ensure_lineage(lineage, "prm", "tiny", "h" * 64)
    engine.dispose()
    assert call(*CREATE, "--share", "0.01")[0] == 0
    call(*EVERY)
    assert "ramp of experiment first: 0.01 of all clients, next 0.05 from " in call("rollout", "status", "prm-1")[1]
    assert "ramp" not in call("rollout", "status", "other")[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--share", "0.5", "--every", "24h"), "expected one of them"),
        (("--steps", "0.5"), "--steps: expected --every"),
        (("--every", "1d", "--steps", "5%"), "--steps 5%: expected shares"),
        (("--every", "1d", "--steps", "0.2,0.1"), "each share above the one before"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: tuple[str, ...], named: str) -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    with pytest.raises(ConfigError, match=named):
        call("abtest", "ramp", "first", *options)


@pytest.mark.parametrize("options", [(), ("--share", "0.5"), ("--every", "24h"), ("--end-plan",)])
@pytest.mark.parametrize("why", ["", " \t"])
def test_a_reason_without_words_is_refused_and_changes_nothing(options: tuple[str, ...], why: str) -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    before = call("abtest", "ramps", "--json")
    with pytest.raises(ConfigError, match=r"why = '\s*': expected some words"):
        call("abtest", "ramp", "first", *options, "--why", why)
    assert call("abtest", "ramps", "--json") == before


def test_the_reason_of_a_plan_stands_in_its_event(home: Path) -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    assert call(*EVERY, "--steps", "0.05,0.25", "--why", "spring")[0] == 0
    (event,) = RampStore(db.create(f"sqlite:///{home / 'shelfwise.db'}")).events("first")
    assert (event.event, event.why) == ("planned", "spring: steps 0.05, 0.25")


def test_a_step_by_hand_names_who_took_it() -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    code, out = call("abtest", "ramp", "first", "--as", "ada", "--json")
    assert (code, json.loads(out)["coverage"]) == (0, 0.05)
    assert call("abtest", "ramp", "first", "--share", "0.01", "--shrink")[1].startswith("experiment first: epoch 3")


def test_a_duration_without_unit_is_a_usage_error() -> None:
    assert call(*CREATE, "--share", "0.01")[0] == 0
    assert call("abtest", "ramp", "first", "--every", "24")[0] == 2
