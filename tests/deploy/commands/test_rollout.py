"""The operator's commands, against a registry that a trainer would have written; no controller runs."""

import getpass
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, update
from typer.testing import CliRunner

from deploy import configuration
from deploy.cli import app
from stream import db
from stream.errors import ConfigError, StoreError
from stream.wall_clock import epoch_ms
from tests.harness.stores import new_store
from tests.trainer.rollout.world import GOOD
from trainer.rollout import judgement
from trainer.rollout.store import RolloutStore
from trainer.rollout.tables import servers
from trainer.versions.event_log import Event
from trainer.versions.registry import Registry, Rewind
from trainer.versions.tables import versions


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    return db.create(new_store(tmp_path / "home" / "shelfwise.db"))


def trained(engine: Engine, *published: tuple[str, ...], metrics: Mapping[str, float] | None = None) -> Registry:
    """Let a trainer publish versions 1, 2, ... and move each through these statuses."""
    registry = Registry(engine)
    registry.ensure_lineage("prm", "prm", "tiny", "h" * 64)
    term = registry.leases.acquire("prm", "trainer", 0, 10**15)
    for number, statuses in enumerate(published, 1):
        parent = f"{number - 1:064x}" if number > 1 else None
        registry.publish(
            "prm",
            number,
            f"{number:064x}",
            parent=parent,
            term=term,
            metrics=metrics or {},
            offsets={},
            published_ts=number,
        )
        for status in statuses:
            registry.advance("prm", number, term, to_status=status, why="test", now_ms=number)
    return registry


def report(engine: Engine, state: str) -> None:
    """Let one server report version 3 in this state."""
    now_ms = epoch_ms()
    row = {"name": "a:8080", "seen_ts": now_ms, "ready": True, "counts": {}}
    with db.transaction(engine) as connection:
        connection.execute(insert(servers).values(**row, loaded={"prm": {"2": "ok", "3": state}}))


LIVE, VERIFIED = ("verified", "live"), ("verified",)


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["rollout", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def answer(*arguments: str) -> Any:
    code, out = call(*arguments, "--json")
    assert code == 0, out
    return json.loads(out)


def live(registry: Registry) -> int | None:
    found = registry.live("prm")
    return None if found is None else found.version


def test_rollback_goes_to_the_former_version_and_says_so(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, LIVE)
    event = answer("rollback", "prm", "--as", "ada", "--why", "prices of zero", "--request-id", "r-1")
    assert live(registry) == 2
    assert (event["actor"], event["command"], event["why"], event["request_id"]) == (
        "ada",
        "rollback",
        "prices of zero",
        "r-1",
    )
    assert (event["after"]["rewind_to"], event["after"]["rewind_mode"]) == (2, "wait")
    assert answer("rollback", "prm", "--as", "ada", "--request-id", "r-1") == event
    assert live(registry) == 2
    code, out = call("status", "prm")
    assert code == 4
    assert "live 2, former 1, canary none\n" in out
    assert "trainer: waits before it goes back to version 2: rewind or resume says how" in out
    assert "locked: frozen: released by hand: version 3 was rolled back" in out
    answer("resume", "prm")
    assert call("status", "prm")[0] == 0


def test_a_second_rollback_names_its_version_or_follows_a_release(engine: Engine) -> None:
    """Two users see the same fault: the second command must not take back what the first one has made live."""
    registry = trained(engine, LIVE, LIVE, LIVE)
    answer("rollback", "prm", "--as", "ada")
    with pytest.raises(
        ConfigError, match=r"lineage prm is frozen: released by hand: version 3 was .*; --to N goes back"
    ):
        call("rollback", "prm", "--as", "bob")
    assert live(registry) == 2
    answer("rollback", "prm", "--to", "1")
    assert live(registry) == 1
    answer("resume", "prm")
    answer("rollback", "prm")
    assert live(registry) is None


def test_of_two_rollbacks_at_once_the_second_one_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = trained(engine, LIVE, LIVE, LIVE)
    command = RolloutStore.command

    def late(store: RolloutStore, *given: Any, **named: Any) -> Event:
        """Let another user be faster."""
        with monkeypatch.context() as patch:
            patch.setattr(RolloutStore, "command", command)
            answer("rollback", "prm", "--as", "bob")
        return command(store, *given, **named)

    monkeypatch.setattr(RolloutStore, "command", late)
    with pytest.raises(StoreError, match="lineage prm: version 3 was live, now version 2 is; nothing was changed"):
        call("rollback", "prm", "--as", "ada", "--request-id", "r-1")
    assert live(registry) == 2


def test_rollback_to_a_version_and_its_mode(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, LIVE)
    assert answer("policy", "set", "prm", "on_rollback=skip")["after"] == {"policy": {"on_rollback": "skip"}}
    assert answer("rollback", "prm", "--to", "1")["after"]["rewind_mode"] == "skip"
    assert live(registry) == 1
    with pytest.raises(ConfigError, match="--trainer stop: expected wait, replay or skip"):
        call("rollback", "prm", "--trainer", "stop")
    with pytest.raises(ConfigError, match="version = 9: lineage prm has no such version"):
        call("rollback", "prm", "--to", "9")


def test_rewind_changes_the_mode_and_nothing_else(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE)
    answer("rollback", "prm")
    event = answer("rewind", "prm", "skip", "--why", "prices of zero")
    assert (event["to_status"], event["after"], event["why"]) == ("rewind", {"rewind_mode": "skip"}, "prices of zero")
    assert registry.rewind("prm") == Rewind(to=1, mode="skip")
    assert "locked: frozen" in call("status", "prm")[1]
    with pytest.raises(ConfigError, match="mode keep: expected wait, replay or skip"):
        call("rewind", "prm", "keep")


def test_a_sentence_for_people(engine: Engine) -> None:
    trained(engine, LIVE, LIVE)
    code, out = call("rollback", "prm", "--trainer", "replay")
    assert code == 0
    assert "lineage prm: rolled_back; version 2 is rolled_back; version 1 is live; rewind_to: 1" in out


def test_the_login_name_is_the_default_user(engine: Engine) -> None:
    trained(engine, LIVE)
    assert answer("freeze", "prm", "outage")["actor"] == getpass.getuser()


def test_pin_kill_freeze_and_their_way_back(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE)
    assert answer("pin", "prm", "1")["after"]["pinned"] == 1
    assert live(registry) == 1
    assert "pinned to version 1" in call("status", "prm")[1]
    answer("unpin", "prm")
    answer("kill", "prm", "wrong prices")
    assert live(registry) is None
    assert answer("status", "prm")["lock"] == "killed: wrong prices"
    answer("resume", "prm")
    assert live(registry) == 1
    answer("freeze", "prm", "outage")
    with pytest.raises(ConfigError, match="lineage prm is frozen: outage; shelfwise rollout unpin or resume"):
        call("promote", "prm", "2")


def test_promote_in_direct_mode_needs_no_gate(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE)
    answer("promote", "prm", "1")
    assert live(registry) == 1


def test_promote_in_gated_mode_waits_for_evidence(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED)
    answer("policy", "set", "prm", "mode=gated")
    code, out = call("promote", "prm")
    assert (code, live(registry)) == (3, 2)
    assert "version 3 has no sufficient evidence for integrity: no server reports" in out
    event = answer("promote", "prm", "--override", "the trial of the shop")
    assert (live(registry), event["why"]) == (3, "the trial of the shop")
    assert event["evidence"]["golden"]["outcome"] == "wait"


def test_promote_in_gated_mode_refuses_what_failed(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED, metrics={**GOOD, judgement.CORRELATION: 0.1})
    answer("policy", "set", "prm", "mode=gated")
    report(engine, "ok")
    code, out = call("promote", "prm")
    assert (code, live(registry)) == (4, 2)
    assert "version 3 failed shadow: rank correlation 0.100" in out
    assert call("status", "prm")[0] == 4
    assert call("status")[0] == 4


def test_promote_in_gated_mode_takes_what_passed(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED, metrics=GOOD)
    answer("policy", "set", "prm", "mode=gated")
    report(engine, "ok")
    code, out = call("status", "prm")
    assert code == 0
    assert "version 3 to canary: gates 1 to 5 passed" in out
    assert "correlation 0.97" in out
    event = answer("promote", "prm")
    assert live(registry) == 3
    assert {verdict["outcome"] for verdict in event["evidence"].values()} == {"pass"}
    assert event["evidence"]["shadow"]["numbers"]["churn"] == 0.05
    # A version that was live before needs no gate to come back.
    answer("promote", "prm", "2")
    assert live(registry) == 2


def test_a_repeated_promotion_of_a_gated_lineage_is_not_judged_again(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED, VERIFIED, metrics=GOOD)
    answer("policy", "set", "prm", "mode=gated")
    event = answer("promote", "prm", "--override", "trial", "--request-id", "r-1")
    assert live(registry) == 4
    # Version 3 would be the next one, and waits for evidence.
    assert answer("promote", "prm", "--request-id", "r-1") == event
    assert call("promote", "prm")[0] == 3
    assert live(registry) == 4


@pytest.mark.parametrize("status", ["rejected", "quarantined", "rolled_back", "published"])
def test_no_override_is_offered_for_a_version_that_may_not_go_live(engine: Engine, status: str) -> None:
    trained(engine, LIVE, LIVE, VERIFIED, metrics={**GOOD, judgement.CORRELATION: 0.1})
    answer("policy", "set", "prm", "mode=gated")
    report(engine, "ok")
    with db.transaction(engine) as connection:
        connection.execute(update(versions).where(versions.c.version == 3).values(status=status))
    for more in ([], ["--override", "trial"]):
        with pytest.raises(ConfigError, match=f"version 3 is {status}; a user cannot make it live"):
            call("promote", "prm", "3", *more)


def test_no_override_is_offered_while_the_lineage_is_locked(engine: Engine) -> None:
    trained(engine, LIVE, LIVE, VERIFIED)
    answer("policy", "set", "prm", "mode=gated")
    answer("freeze", "prm", "outage")
    with pytest.raises(ConfigError, match="lineage prm is frozen: outage; shelfwise rollout unpin or resume"):
        call("promote", "prm")


def test_a_version_that_came_while_the_gates_were_judged_is_not_promoted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED, metrics=GOOD)
    answer("policy", "set", "prm", "mode=gated")
    report(engine, "ok")
    judge = judgement.before_canary

    def slow(*arguments: Any) -> Any:
        term = registry.leases.acquire("prm", "trainer", 0, 10**15)
        registry.publish("prm", 4, f"{4:064x}", parent=f"{3:064x}", term=term, metrics={}, offsets={}, published_ts=4)
        registry.advance("prm", 4, term, to_status="verified", why="test", now_ms=4)
        return judge(*arguments)

    monkeypatch.setattr(judgement, "before_canary", slow)
    with pytest.raises(StoreError, match="lineage prm was changed while its gates were judged; try again"):
        call("promote", "prm")
    assert live(registry) == 2


def test_a_command_needs_a_reason_that_says_something(engine: Engine) -> None:
    registry = trained(engine, LIVE, LIVE, VERIFIED)
    answer("policy", "set", "prm", "mode=gated")
    num_events = len(answer("history", "prm")["events"])
    for given in (["promote", "prm", "--override", " "], ["rollback", "prm", "--why", ""], ["pin", "prm", "--why", ""]):
        with pytest.raises(ConfigError, match=r"(why|--override) = ' ?': expected some words"):
            call(*given)
    assert (live(registry), len(answer("history", "prm")["events"])) == (2, num_events)


def test_status_names_a_server_that_does_not_report(engine: Engine) -> None:
    trained(engine, ("verified", "live"))
    report(engine, "ok")
    assert "do not report" not in call("status", "prm")[1]
    with db.transaction(engine) as connection:
        connection.execute(update(servers).values(seen_ts=1_000))
    named = "servers that do not report, and may serve what was live then: a:8080 since 1970-01-01T00:00:01"
    assert named in call("status", "prm")[1].replace(" 00:00:01", "T00:00:01")
    assert answer("status", "prm", "--json")["servers_silent"] == {"a:8080": 1_000}


def test_status_waits_with_exit_code_3(engine: Engine) -> None:
    trained(engine, LIVE, LIVE, VERIFIED, metrics=GOOD)
    answer("policy", "set", "prm", "mode=gated")
    report(engine, "sha256 of dense.safetensors differs")
    code, out = call("status", "prm", "--json")
    found = json.loads(out)
    assert (code, found["waits_for"], found["failed"]) == (
        4,
        [],
        "version 3: integrity: refused by every server, " + ("a:8080: sha256 of dense.safetensors differs"),
    )


def test_abort_needs_a_canary_and_a_known_mode(engine: Engine) -> None:
    trained(engine, LIVE)
    with pytest.raises(ConfigError, match="lineage prm has no canary"):
        call("abort", "prm")
    with pytest.raises(ConfigError, match="--trainer stop: expected keep, wait, replay or skip"):
        call("abort", "prm", "--trainer", "stop")


def test_history_tells_what_served_at_a_time(engine: Engine) -> None:
    trained(engine, LIVE, LIVE)
    answer("rollback", "prm")
    now = answer("history", "prm")
    assert (now["live"], [event["to_status"] for event in now["events"]][-1]) == ([1], "rolled_back")
    assert answer("history", "prm", "--at", "2")["live"] == [2]
    assert answer("history", "prm", "--at", "1970-01-01T00:00:00.001Z")["live"] == [1]
    code, out = call("history", "prm")
    assert code == 0
    assert "live: 1; canary: none" in out
    assert call("history", "prm", "--at", "yesterday")[0] == 2


def test_policy_show_names_what_is_set(engine: Engine) -> None:
    trained(engine, LIVE)
    answer("policy", "set", "prm", "canary_s=60", "max_churn=0.3")
    assert answer("policy", "show", "prm")["max_churn"] == 0.3
    lines = call("policy", "show", "prm")[1].splitlines()
    (line,) = [each for each in lines if "canary_s " in each]
    assert "60" in line
    assert "set" in line
    with pytest.raises(ConfigError, match="canary_s = -1: expected 0 or more"):
        call("policy", "set", "prm", "canary_s=-1")
    with pytest.raises(ConfigError, match="policy set canary_s: expected"):
        call("policy", "set", "prm", "canary_s")


def test_an_unknown_lineage_is_named(engine: Engine) -> None:
    trained(engine, LIVE)
    for command in (["status"], ["history"], ["promote"], ["rollback"], ["pin"], ["policy", "show"]):
        with pytest.raises(ConfigError, match="lineage = 'prn': expected one of: prm"):
            call(*command, "prn")


def test_without_lineages_the_status_says_so(engine: Engine) -> None:
    assert answer("status") == []
    assert call("status") == (0, "no lineage yet: the first start of a trainer creates its lineage\n")


@pytest.mark.slow
def test_the_controller_runs_with_probes_until_it_is_told_to_stop(engine: Engine, tmp_path: Path) -> None:
    trained(engine, LIVE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deploy", "rollout", "run", "--metrics-port", str(port)]
    variables = configuration.environment() | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("lineage prm: mode is direct" in line for line in process.stderr)
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        shown = connection.getresponse().read().decode()
        connection.close()
        process.terminate()
        assert process.wait(60) == 0
    assert 'shelfwise_rollout_state{lineage="prm",status="live",version="1"} 1.0' in shown


def test_watch_prints_again_until_it_is_told_to_stop(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(engine, LIVE)

    class Stop:
        """An event that is set while the second status waits."""

        waits = iter([False, True])

        def wait(self, seconds: float) -> bool:
            return next(self.waits)

    monkeypatch.setattr("deploy.commands.rollout.stop_event", lambda _ctx: Stop())
    code, out = call("status", "prm", "--watch")
    assert (code, out.count("lineage prm (direct): live 1")) == (0, 2)
