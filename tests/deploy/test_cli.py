"""The program as a whole: settings, logging and exit codes of its commands."""

import errno
import os
import sys
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy import cli
from deploy.cli import app
from deploy.commands import output
from deploy.configuration import Context
from deploy.grafana import generate
from serving.tokens import Role, parse, sha256_of
from stream.errors import ConfigError
from stream.logs import LoggingSettings


def test_a_command_starts_logging_once_with_its_settings() -> None:
    started: list[Context] = []
    result = CliRunner().invoke(
        app, ["--set", "logging.format=json", "config", "show"], obj={"start_logging": started.append}
    )
    assert result.exit_code == 0, result.output
    [context] = started
    assert context.settings.get("logging", LoggingSettings).format == "json"


def test_a_table_in_a_pipe_is_not_cut_to_the_width_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("wide", ("key", "text"), [("a", "word " * 30)])
    assert "word " * 29 in capsys.readouterr().out


def test_a_narrow_terminal_keeps_the_first_column_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(output.console, "rich", Console(file=shown, width=80, force_terminal=True))
    coordinates = "shelfwise-impressions 11 123456789"
    output.print_table("dead letters", ("source", *"abcde"), [(coordinates, *["many words here"] * 5)])
    assert coordinates in shown.getvalue()


def test_brackets_in_a_table_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("list of [red]", ("key", "text"), [("[bold]", "`[model]` :smile: [/]")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("list of [red]", "[bold]", "`[model]` :smile: [/]"))


def test_brackets_in_a_line_and_in_the_titles_of_a_table_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    """An arm named like a closing tag ended a report in a traceback."""
    output.console.print("arm [/a] of :smile:", highlight=False)
    output.print_table("lifts", ("metric", "[/a]"), [("gmv", 1)])
    shown = capsys.readouterr().out
    assert "arm [/a] of :smile:" in shown
    assert shown.count("[/a]") == 2


def test_the_program_configures_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[LoggingSettings] = []
    monkeypatch.setattr("stream.logs.configure", configured.append)
    monkeypatch.setattr(sys, "argv", ["shelfwise", "--set", "logging.level=debug", "config", "show", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert configured == [LoggingSettings(level="debug")]


def test_a_wrong_setting_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shelfwise", "--set", "logging.levle=debug", "config", "show"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == output.Exit.USAGE
    assert capsys.readouterr().err.splitlines() == [
        "configuration error: flag: unknown key 'logging.levle'; the nearest known key is 'logging.level'"
    ]


def test_an_argument_that_is_no_utf8_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shelfwise", "rollout", "freeze", "prm", "caf\udce9"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == output.Exit.USAGE
    assert capsys.readouterr().err.splitlines() == [r"configuration error: argument 'caf\udce9': expected UTF-8"]


def test_serving_beyond_loopback_without_tokens_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["shelfwise", "serving", "run", "--host", "0.0.0.0"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == output.Exit.USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("configuration error: serving.host = 0.0.0.0 is not on loopback: set serving.tokens; ")


def test_a_token_is_made_with_the_line_by_which_the_service_knows_it() -> None:
    made = msgspec.json.decode(
        CliRunner().invoke(app, ["serving", "token", "score", "--expires", "2999-03-01", "--json"]).output
    )
    [line] = parse(made["line"])
    assert (line.role, line.sha256, line.expires_ms) == (
        Role.SCORE,
        sha256_of(made["token"].encode()),
        32_477_241_600_000,
    )
    lines = CliRunner().invoke(app, ["serving", "token", "read"]).output.splitlines()
    assert [text.partition(":")[0] for text in lines] == ["token", "line"]
    assert made["token"] not in lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["admin"],
        ["score", "--expires", "2027-02-30"],
        ["score", "--expires", "soon"],
        ["score", "--expires", "1999-03-01"],
    ],
)
def test_a_token_of_an_unknown_role_or_of_a_day_that_is_none_or_over_is_refused(arguments: list[str]) -> None:
    refused = CliRunner().invoke(app, ["serving", "token", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert refused.output == ""


def test_a_folder_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/data/out.jsonl")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == output.Exit.FAILURE
    assert capsys.readouterr().err.splitlines() == [
        "error: /data/out.jsonl: Read-only file system; "
        "SHELFWISE_HOME sets the home folder, TMPDIR that of temporary files"
    ]


def test_an_error_of_the_broker_names_a_local_kafka_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setattr("deploy.kafka.choice.fault", lambda _loaded: "no space left")
    monkeypatch.setattr(sys, "argv", ["shelfwise", "stream", "recount"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == output.Exit.FAILURE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: kafka.broker = auto: no local Kafka runs")
    assert line.endswith("; no space left")


def _modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}


def test_what_the_program_keeps_only_its_user_reads_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask of the shell lets everybody in: home and database are closed, a report for others is not."""
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "above" / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    dashboards, umask = tmp_path / "dashboards", os.umask(0)
    monkeypatch.setattr("deploy.grafana.generate.write", partial(generate.write, dashboards))
    try:
        for arguments in (["db", "upgrade"], ["grafana", "generate"]):
            monkeypatch.setattr(sys, "argv", ["shelfwise", *arguments])
            with suppress(SystemExit):
                cli.main()
        assert os.umask(0) == 0
    finally:
        os.umask(umask)
    kept = _modes(tmp_path / "above")
    assert {kept["."], kept["home"], kept["home/shelfwise.db"]} == {0o700, 0o600}
    assert not any(mode & 0o077 for mode in kept.values())
    assert {mode & 0o077 for mode in _modes(dashboards).values()} == {0o066, 0o077}
