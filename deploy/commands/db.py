"""`shelfwise db`: the schema of the database."""

from typing import TYPE_CHECKING

import typer

from deploy.commands.output import Exit, JsonFlag, console, context, fail, print_json

if TYPE_CHECKING:
    from deploy.migrations.revision import Revision

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Create the tables, or migrate them to the revision of this release."""
    from deploy.migrations.upgrade import upgrade as migrate
    from stream.db_settings import DatabaseSettings

    loaded = context(ctx)
    before = migrate(loaded.database_url(), loaded.settings.get("database", DatabaseSettings))
    if as_json:
        print_json({"database": before.database, "from": before.current, "to": before.head})
    elif before.state == "head":
        console.print(f"{before}; nothing to do", highlight=False, soft_wrap=True)
    else:
        console.print(
            f"database {before.database}: upgraded from {before.current or 'no schema'} to revision {before.head}",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def current(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print the schema revision of the database and the one that this release needs."""
    found = _revision(ctx)
    if as_json:
        print_json(found)
    else:
        console.print(str(found), highlight=False, soft_wrap=True)


@app.command()
def check(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Compare the schema with the one that this release needs; exit code 3 if they differ."""
    found = _revision(ctx)
    if as_json:
        print_json(found)
    elif found.state == "head":
        console.print(str(found), highlight=False, soft_wrap=True)
    if found.state != "head":
        raise fail(str(found), Exit.HEALTH)


def _revision(ctx: typer.Context) -> "Revision":
    from deploy.migrations.revision import revision
    from stream import db
    from stream.db_settings import DatabaseSettings

    loaded = context(ctx)
    engine = db.create(loaded.database_url(), loaded.settings.get("database", DatabaseSettings))
    try:
        return revision(engine)
    finally:
        engine.dispose()
