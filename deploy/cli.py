"""`shelfwise`: one program with a group of commands per package."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from deploy.commands.groups import with_groups
from deploy.commands.output import PRIVATE_UMASK, Exit, assignments, print_error, start_logging
from stream.errors import BusError, ConfigError, ShelfwiseError

GROUPS = {
    "kafka": "Start the local Kafka and create the topics.",
    "stream": "Join, produce, replay, check and export events.",
    "catalog": "Turn titles and pictures of items into vectors.",
    "trainer": "Train lineages and list their versions.",
    "rollout": "Gate, canary, promote and roll back versions.",
    "serving": "Run the ranking service.",
    "abtest": "Create experiments, store their facts and report results.",
    "db": "Upgrade and check the schema of the database.",
    "marketplace": "Run the simulated shop.",
    "grafana": "Generate dashboards and apply them to a Grafana server.",
    "demo": "Run the whole loop on one machine.",
    "doctor": "Check this machine, the servers and the settings.",
    "config": "Print the settings and their origins.",
}
"""Group of commands to its help; the modules of the groups are imported on demand, so that each command starts fast."""

app = typer.Typer(
    name="shelfwise",
    cls=with_groups("deploy.commands", GROUPS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help in Rich's boxes would import Rich with its Markdown parser and its highlighter.
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
    help="Close the loop of e-commerce search re-ranking: join events, train, roll out, experiment.",
    epilog="Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 health check failed or evidence missing, "
    "4 guardrail breached, 130 interrupted.",
)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - Typer passes it
    from importlib.metadata import version

    if is_asked:
        typer.echo(version("shelfwise"))
        raise typer.Exit


VersionFlag: TypeAlias = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def root(
    ctx: typer.Context,
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; repeatable.")
    ] = None,
    _version: VersionFlag = False,  # noqa: FBT002 - Typer takes the default from here
) -> None:
    """Store the options before the group for the command that follows."""
    ctx.obj = ctx.obj if ctx.obj is not None else {}
    ctx.obj |= {"config": config_file, "set": assignments(given or [], "--set")}


@app.command("version")
def version_command() -> None:
    """Print the version of Shelfwise."""
    _print_version(is_asked=True)


def main() -> None:
    """Run the program; print an error of Shelfwise as one line and set the exit code.

    What it writes, and what its children write, only its user may read: files and stores name clients.
    """
    umask = os.umask(PRIVATE_UMASK)
    given: dict[str, object] = {"start_logging": start_logging, "umask": umask}
    try:
        _check_encoding(sys.argv[1:])
        app(obj=given)
    except ConfigError as error:
        print_error(error, "configuration error")
        sys.exit(Exit.USAGE)
    except ShelfwiseError as error:
        print_error(_with_cause(error, given.get("loaded")))
        sys.exit(Exit.FAILURE)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        print_error(f"{place}{error.strerror}; SHELFWISE_HOME sets the home folder, TMPDIR that of temporary files")
        sys.exit(Exit.FAILURE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    finally:
        os.umask(umask)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse arguments that no database, record or JSON document can hold."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"argument {argument[:80]!a}: expected UTF-8") from error


def _with_cause(error: ShelfwiseError, loaded: object) -> str:
    """Return the message of an error; a local Kafka that cannot work is its cause."""
    from deploy.configuration import Context

    if not isinstance(error, BusError) or not isinstance(loaded, Context):
        return str(error)
    from deploy.kafka.choice import fault

    cause = fault(loaded)
    return str(error) if cause is None or cause in str(error) else f"{error}; {cause}"
