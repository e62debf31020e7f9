"""Verdicts of experiments, `shelfwise abtest report` and `decide`: a reading for monitoring, and a look."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.arguments import ExperimentArgument
from deploy.commands.output import Exit, JsonFlag, console, database, for_others, print_json, print_table

if TYPE_CHECKING:
    from abtest.results import Report


def report(
    ctx: typer.Context,
    name: ExperimentArgument,
    html: Annotated[Path | None, typer.Option(help="File for one self-contained HTML page.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for Markdown.")] = None,
    partial: Annotated[
        bool | None,
        typer.Option("--partial/--mature", help="Include sessions with open attribution windows, or never."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the verdict so far and lifts for monitoring; it takes no look. Exit code 3 if a health check is blocked."""
    from abtest import render
    from abtest.page import page_html
    from abtest.report import report as compute

    found = compute(database(ctx), name, partial=partial)
    for path, text in ((html, page_html), (markdown, render.report_markdown)):
        if path is not None:
            with for_others(ctx):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text(found))
    _print_report(found, as_json=as_json)
    if not as_json:
        for path in (html, markdown):
            if path is not None:
                console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if found.blocked:
        raise typer.Exit(Exit.HEALTH)


def decide(ctx: typer.Context, name: ExperimentArgument, as_json: JsonFlag = False) -> None:
    """Take a look, which spends a part of alpha, and print the verdict; exit code 3 if a health check is blocked.

    A look needs mature sessions and enough buyers. After the last look the verdict never changes.
    """
    from abtest.report import decide as look

    found = look(database(ctx), name)
    _print_report(found, as_json=as_json)
    if found.blocked:
        raise typer.Exit(Exit.HEALTH)


def _print_report(found: "Report", *, as_json: bool) -> None:
    from abtest import render

    if as_json:
        print_json(found)
        return
    console.print(f"{found.experiment}: {render.verdict_line(found)}", highlight=False, soft_wrap=True)
    console.print(found.verdict_reason, highlight=False, soft_wrap=True)
    if found.looks:
        print_table("looks", render.LOOK_COLUMNS, render.look_rows(found))
    print_table("lifts, for monitoring", render.table_columns(found), render.table_rows(found))
    if found.adjusted:
        print_table("lifts by CUPED", render.ADJUSTED_COLUMNS, render.adjusted_rows(found))
    for check in found.checks:
        console.print(f"{check.check_name}: {check.status}; {check.detail}", highlight=False, soft_wrap=True)
    for caveat in found.caveats:
        console.print(f"- {caveat}", highlight=False, soft_wrap=True)
