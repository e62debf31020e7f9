"""Context, output and exit codes of the commands."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from stream.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from deploy.configuration import Context

PRIVATE_UMASK = 0o077
"""Umask of the program: files with mode 0600 and folders with 0700."""
_PIPE_COLUMNS = 200

JsonFlag: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
MetricsPort: TypeAlias = Annotated[int | None, typer.Option(help="Port of probes and metrics; 0 opens none.")]
MetricsHost: TypeAlias = Annotated[str | None, typer.Option(help="Address of probes and metrics.")]


class Terminal:
    """Standard output or standard error, for people.

    Rich is imported with the first line: a command starts without it.
    """

    def __init__(self, *, is_stderr: bool = False) -> None:
        self._is_stderr = is_stderr

    @cached_property
    def rich(self) -> "Console":
        """The console of Rich, for tables and progress bars."""
        from rich.console import Console

        return Console(stderr=self._is_stderr)

    def print(self, text: str, *, markup: bool = False, highlight: bool = True, soft_wrap: bool = False) -> None:
        """Print one line, as `rich.console.Console.print` does; brackets and colons are text unless `markup` is set."""
        self.rich.print(text, markup=markup, emoji=False, highlight=highlight, soft_wrap=soft_wrap)


console = Terminal()
err_console = Terminal(is_stderr=True)


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    HEALTH = 3
    GUARDRAIL = 4
    INTERRUPTED = 130


def assignments(given: Sequence[str], flag: str, prefix: str = "") -> dict[str, object]:
    """Return the values of `KEY=VALUE` by key.

    Raises:
        ConfigError: If an assignment has no equals sign.
    """
    found: dict[str, object] = {}
    for assignment in given:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"{flag} {assignment}: expected {'KEY' if prefix else 'SECTION.KEY'}=VALUE")
        found[prefix + key.strip()] = value
    return found


def context(ctx: typer.Context, overrides: Mapping[str, object] | None = None) -> "Context":
    """Return settings with the flags of this call on top of the program's own `--set` flags, and start logging.

    The program's `main` also hands over `start_logging`, and reads `loaded` to explain an error; tests that call
    commands in their own process do not.
    """
    loaded = settings_of(ctx, overrides)
    given = _given(ctx)
    given["loaded"] = loaded
    if (start_logging := given.get("start_logging")) is not None:
        start_logging(loaded)
    return loaded


def settings_of(ctx: typer.Context, overrides: Mapping[str, object] | None = None) -> "Context":
    """Return the settings of this call as files and environment have them now.

    Raises:
        ConfigError: If a file is missing or a key or value is refused.
    """
    from deploy.configuration import load

    given = _given(ctx)
    chosen: dict[str, object] = dict(given.get("set", {}))
    chosen |= {key: value for key, value in (overrides or {}).items() if value is not None}
    return load(given.get("config"), chosen)


@contextmanager
def for_others(ctx: typer.Context) -> Iterator[None]:
    """Give files that are written meanwhile the rights of the caller's umask, for reports and dashboards."""
    private = os.umask(_given(ctx).get("umask", PRIVATE_UMASK))
    try:
        yield
    finally:
        os.umask(private)


def _given(ctx: typer.Context) -> dict[str, Any]:
    root = ctx.find_root()
    return root.obj if root.obj is not None else {}


def database(ctx: typer.Context) -> "Engine":
    """Return an engine on the configured database.

    Raises:
        ConfigError: If the schema is not the one that this program needs, or a setting is refused.
        StoreError: If the database is unreachable.
    """
    from deploy.migrations.revision import open_database

    return open_database(context(ctx))


def start_logging(context: "Context") -> None:
    """Send log lines to standard error in the configured format."""
    from stream.logs import LoggingSettings, configure

    configure(context.settings.get("logging", LoggingSettings))


def print_json(document: object) -> None:
    """Print `document` (structs, dataclasses, mappings, lists) as indented JSON to standard output."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows for people; output that goes to a file or a pipe is not cut to 80 columns.

    Brackets are text. A cell that is None, a number that is undefined or a name that is missing, shows a dash.

    The first column says what a row is about, often as the arguments of a further command: it is never cut.
    """
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    first, *others = columns
    headers = Column(Text(first), no_wrap=True), *(Column(Text(name)) for name in others)
    table = Table(*headers, title=Text(title, style="table.title"), title_justify="left")
    for row in rows:
        table.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    shown = console.rich
    wide = shown if shown.is_terminal else Console(width=max(shown.width, _PIPE_COLUMNS))
    wide.print(table)


def fail(message: str, code: Exit = Exit.FAILURE) -> typer.Exit:
    """Print an error to standard error and return the exception that ends the command."""
    print_error(message)
    return typer.Exit(int(code))


def print_error(message: object, kind: str = "error") -> None:
    """Print one line to standard error; brackets in the message are text, not markup."""
    from rich.markup import escape

    err_console.print(f"[bold red]{kind}:[/] {escape(str(message))}", markup=True, soft_wrap=True, highlight=False)
