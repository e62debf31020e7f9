"""Groups of commands on demand, and what a command line imports before its command runs."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import cli, configuration
from deploy.commands.output import Exit
from deploy.commands.stream import GROUPS as STREAM_GROUPS
from deploy.commands.trainer import GROUPS as TRAINER_GROUPS

ROOT = Path(__file__).parents[3]

_EVERY_COMMAND = """
import contextlib, io, json, sys
from deploy import cli
from typer.main import get_group

loaded = set()
seen = {}

def run(*words):
    sys.argv = ["shelfwise", *words]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, (words, end.code)
    seen[" ".join(words)] = sorted(set(sys.modules) - loaded)
    loaded.update(sys.modules)

def walk(command, *words):
    run(*words, "--help")
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        walk(command.get_command(None, name), *words, name)

run("--version")
walk(get_group(cli.app))
run("config", "show", "--json")
run("config", "show")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def loaded_by(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """Modules that each command line loads in one process, beyond those of the lines before it."""
    environment = configuration.environment() | {"PYTHONPATH": str(ROOT)}
    folder = tmp_path_factory.mktemp("anywhere")
    program = [sys.executable, "-c", _EVERY_COMMAND]
    done = subprocess.run(program, env=environment, cwd=folder, check=True, capture_output=True, text=True)
    return {words: set(modules) for words, modules in json.loads(done.stdout).items()}


@pytest.fixture(scope="module")
def libraries() -> frozenset[str]:
    """Import names of the libraries that Shelfwise depends on, without the light ones: Typer and msgspec."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^a-z0-9-]", line)[0] for line in project["dependencies"]} - {"typer", "msgspec"}
    found = packages_distributions()
    names = {name for name, owners in found.items() if declared & {owner.lower().replace("_", "-") for owner in owners}}
    assert {"torch", "faust", "kafka", "sqlalchemy", "numpy", "rich", "structlog"} <= names
    return frozenset(names)


def test_no_heavy_library_is_imported_before_a_command_runs(
    loaded_by: Mapping[str, set[str]], libraries: frozenset[str]
) -> None:
    """The imports decide how long a command takes to start; some of these libraries cost tenths of a second."""
    before_running = {words: modules & libraries for words, modules in loaded_by.items() if "config show" not in words}
    assert len(before_running) > 50
    assert {words: found for words, found in before_running.items() if found} == {}


def test_the_settings_need_no_heavy_library_and_the_table_of_them_rich(
    loaded_by: Mapping[str, set[str]], libraries: frozenset[str]
) -> None:
    assert loaded_by["config show --json"] & libraries == set()
    assert loaded_by["config show"] & libraries == {"rich"}


def test_only_the_group_that_is_named_is_imported(loaded_by: Mapping[str, set[str]]) -> None:
    modules = {
        f"deploy.commands.{name.replace('-', '_')}": name for name in (*cli.GROUPS, *STREAM_GROUPS, *TRAINER_GROUPS)
    }
    for words, loaded in loaded_by.items():
        assert {modules[module] for module in loaded & modules.keys()} <= set(words.split()), words


def test_completion_imports_no_heavy_library(tmp_path: Path, libraries: frozenset[str]) -> None:
    program = (
        "import sys; sys.argv = ['shelfwise']\n"
        "from deploy import cli\n"
        "try: cli.main()\n"
        "finally: open('modules', 'w').write('\\n'.join(sys.modules))"
    )
    completed = {"_SHELFWISE_COMPLETE": "complete_bash", "COMP_WORDS": "shelfwise stream pr", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**configuration.environment(), **completed, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["produce"]
    assert libraries & set((tmp_path / "modules").read_text().splitlines()) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kafak"], "No such command 'kafak'. Did you mean 'kafka'?"),
        (["kafka", "tpoics"], "No such command 'tpoics'. Did you mean 'topics'?"),
        (["stream", "dead-letters", "lisst"], "No such command 'lisst'. Did you mean 'list'?"),
        (["stream", "replay", "trivago"], "Missing option '--path'."),
    ],
)
def test_a_wrong_command_of_a_group_on_demand_is_named(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == Exit.USAGE
    assert message in done.stderr


def test_a_group_on_demand_shows_its_help_and_its_commands() -> None:
    shown = CliRunner().invoke(cli.app, ["stream", "dead-letters", "--help"]).stdout
    assert "Usage: shelfwise stream dead-letters [OPTIONS] COMMAND [ARGS]..." in shown
    assert STREAM_GROUPS["dead-letters"] in shown
    assert re.findall(r"^  (list|show|redrive) +[A-Z]", shown, re.MULTILINE) == ["list", "show", "redrive"]


def test_every_module_that_declares_commands_of_a_group_is_listed() -> None:
    declared = {
        path.stem.replace("_", "-")
        for path in (ROOT / "deploy" / "commands").glob("*.py")
        if re.search(r"^app = ", path.read_text(), re.MULTILINE)
    }
    assert declared == cli.GROUPS.keys() | STREAM_GROUPS.keys() | TRAINER_GROUPS.keys()
