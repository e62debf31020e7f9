"""`shelfwise`: one program with a group of commands per package."""

import errno
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from deploy.commands import abtest, config, db, demo, doctor, grafana, kafka, marketplace, serving, stream, trainer
from deploy.commands.output import Exit, assignments, print_error, start_logging
from deploy.configuration import Context
from stream.errors import BusError, ConfigError, ShelfwiseError

app = typer.Typer(
    name="shelfwise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Close the loop of e-commerce search re-ranking: join events, train, roll out, experiment.",
    epilog="Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 health check failed, 130 interrupted.",
)
app.add_typer(kafka.app, name="kafka", help="Start the local Kafka and create the topics.")
app.add_typer(stream.app, name="stream", help="Join, produce, replay, check and export events.")
app.add_typer(trainer.app, name="trainer", help="Train lineages and list their versions.")
app.add_typer(serving.app, name="serving", help="Run the ranking service.")
app.add_typer(abtest.app, name="abtest", help="Create experiments, store their facts and report results.")
app.add_typer(db.app, name="db", help="Upgrade and check the schema of the database.")
app.add_typer(marketplace.app, name="marketplace", help="Run the simulated shop.")
app.add_typer(grafana.app, name="grafana", help="Generate dashboards and apply them to a Grafana server.")
app.add_typer(demo.app, name="demo", help="Run the whole loop on one machine.")
app.add_typer(doctor.app, name="doctor", help="Check this machine, the servers and the settings.")
app.add_typer(config.app, name="config", help="Print the settings and their origins.")


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - Typer passes it
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
    typer.echo(version("shelfwise"))


def main() -> None:
    """Run the program; print an error of Shelfwise as one line and set the exit code."""
    given: dict[str, object] = {"start_logging": start_logging}
    try:
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


def _with_cause(error: ShelfwiseError, loaded: object) -> str:
    """Return the message of an error; a local Kafka that cannot work is its cause."""
    if not isinstance(error, BusError) or not isinstance(loaded, Context):
        return str(error)
    from deploy.kafka.choice import fault

    cause = fault(loaded)
    return str(error) if cause is None or cause in str(error) else f"{error}; {cause}"
