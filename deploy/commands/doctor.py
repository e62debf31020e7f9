"""`shelfwise doctor`: checks of this machine and the settings."""

import typer

from deploy.commands.output import Exit, JsonFlag, context, print_json, print_table

app = typer.Typer(invoke_without_command=True)


@app.callback()
def doctor(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Check this machine, the servers and the settings without changing anything; exit code 3 if a check fails."""
    from deploy.doctor import examine

    findings = examine(context(ctx))
    if as_json:
        print_json(findings)
    else:
        print_table("doctor", ("check", "status", "finding"), [(c.name, c.status, c.detail) for c in findings])
    if any(check.status == "fail" for check in findings):
        raise typer.Exit(int(Exit.HEALTH))
