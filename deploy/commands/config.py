"""`shelfwise config`: what is set, and by whom."""

import typer

from deploy.commands.output import JsonFlag, context, print_json, print_table

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print every setting with its value and its origin: default, file, environment or flag."""
    loaded = context(ctx)
    rows = [(f"{s.section}.{s.key}", s.shown, s.origin) for s in loaded.settings.resolved]
    if as_json:
        print_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
    else:
        print_table(
            f"settings (file: {loaded.config_file or 'none'}, home: {loaded.home})", ("key", "value", "origin"), rows
        )
