"""The commands of the quarantine, against ranges that a trainer would have recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream import db
from stream.broker import offsets
from stream.broker.settings import Broker
from stream.errors import ConfigError
from tests.harness.stores import new_store
from trainer.quarantine.ranges import LogRange
from trainer.quarantine.store import Quarantine
from trainer.versions.registry import Registry

FIRST = LogRange(
    from_ts=None,
    until_ts=120_000,
    from_cursors={"0": (5, 59_000), "1": (3, 58_000)},
    until_offsets={"0": 9, "1": 3},
    reasons=("click_rate", "hold", "loss", "order_rate"),
    numbers={
        "click_rate": {"value": 0.0, "expected": 0.05},
        "loss": {"value": None, "expected": 2.0},
        "order_rate": {"value": 0.5, "expected": None},
    },
    num_sessions=4,
)


@pytest.fixture(autouse=True)
def quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quarantine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    engine = db.create(new_store(tmp_path / "home" / "shelfwise.db"))
    registry = Registry(engine)
    registry.ensure_lineage("prm", "prm", "tiny", "h" * 64)
    assert registry.leases.acquire("prm", "one", 0, 10) == 1
    found = Quarantine(engine)
    found.add("prm", 1, FIRST, 7)
    found.add("prm", 1, replace(FIRST, from_ts=120_000, until_ts=180_000, reasons=("hold",)), 8)
    return found


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def answer(*arguments: str) -> Any:
    return json.loads(call(*arguments, "--json"))


def test_the_list_names_ranges_and_what_was_measured(quarantine: Quarantine) -> None:
    out = call("trainer", "quarantine", "list", "prm")
    assert "0: 5-8" in out
    assert "1: 3" not in out, "no record of this partition"
    assert "click_rate 0, expected 0.05; hold; loss not finite; order_rate 0.5" in out
    assert "1970-01-01T00:03:00+00:00" in out
    assert "open since range 2: hold; nothing is learned or published" in out
    found = answer("trainer", "quarantine", "list", "prm")
    assert [(each["number"], each["status"], each["is_open"]) for each in found] == [
        (1, "quarantined", False),
        (2, "quarantined", True),
    ]
    assert found[0]["range"]["until_offsets"] == {"0": 9, "1": 3}
    quarantine.close("prm", 1, 0, 9)
    assert "open since" not in call("trainer", "quarantine", "list", "prm")
    with pytest.raises(ConfigError, match="lineage = 'other'"):
        call("trainer", "quarantine", "list", "other")


def test_a_range_is_dropped_once() -> None:
    event = answer("trainer", "quarantine", "drop", "prm", "1", "--as", "ada", "--why", "bots", "--request-id", "r1")
    assert (event["command"], event["actor"], event["why"], event["to_status"]) == (
        "quarantine drop",
        "ada",
        "bots",
        "dropped",
    )
    assert answer("trainer", "quarantine", "drop", "prm", "1", "--as", "ada", "--request-id", "r1") == event
    with pytest.raises(ConfigError, match="it is dropped, expected quarantined"):
        call("trainer", "quarantine", "drop", "prm", "1")
    assert "lineage prm: dropped; range 2 is dropped" in call("trainer", "quarantine", "drop", "prm", "2")


@pytest.mark.parametrize(
    ("beginning", "message"), [(5, None), (6, "retention has removed offsets 5 to 5 of partition 0")]
)
def test_a_range_is_given_back_while_the_log_holds_it(
    monkeypatch: pytest.MonkeyPatch, beginning: int, message: str | None
) -> None:
    def beginnings(_broker: Broker, names: list[str]) -> dict[tuple[str, int], int]:
        return {(name, partition): beginning for name in names for partition in (0, 1)}

    monkeypatch.setattr(offsets, "beginning_offsets", beginnings)
    monkeypatch.setenv("SHELFWISE_BROKER", "127.0.0.1:1")
    if message is not None:
        with pytest.raises(ConfigError, match=message):
            call("trainer", "quarantine", "train", "prm", "1")
        return
    event = answer("trainer", "quarantine", "train", "prm", "1", "--request-id", "r2")
    assert (event["command"], event["to_status"]) == ("quarantine train", "released")
    assert answer("trainer", "quarantine", "train", "prm", "1", "--request-id", "r2") == event
    with pytest.raises(ConfigError, match="it is released, expected quarantined"):
        call("trainer", "quarantine", "drop", "prm", "1")


def test_the_status_of_the_rollout_names_open_breakers_and_ranges(quarantine: Quarantine) -> None:
    out = call("rollout", "status", "prm")
    assert "open breakers, nothing is learned or published: hold" in out
    assert "ranges in quarantine: 1, 2; see shelfwise trainer quarantine list prm" in out
    quarantine.close("prm", 1, 0, 9)
    call("trainer", "quarantine", "drop", "prm", "1")
    out = call("rollout", "status", "prm")
    assert "open breakers" not in out
    assert "ranges in quarantine: 2;" in out
