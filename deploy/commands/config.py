"""`shelfwise config`: the settings of a command and their origins."""

import typer

from deploy.commands.output import JsonFlag, context, print_json, print_table

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print every setting with its value, its origin (default, file, environment or flag) and its description."""
    loaded = context(ctx)
    rows = [(f"{s.section}.{s.key}", s.shown, s.origin, s.description) for s in loaded.settings.resolved]
    columns = ("key", "value", "origin", "description")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(f"settings (file: {loaded.config_file or 'none'}, home: {loaded.home})", columns, rows)


@app.command()
def reference() -> None:
    """Print the reference of all settings as Markdown: keys, variables, types, defaults and descriptions."""
    from deploy.reference import configuration

    typer.echo(configuration(), nl=False)
