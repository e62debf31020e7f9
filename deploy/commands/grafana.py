"""`shelfwise grafana`: the dashboards on a Grafana server."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import Exit, JsonFlag, console, context, fail, for_others, print_json, print_table
from deploy.grafana.settings import GrafanaSettings

if TYPE_CHECKING:
    from deploy.grafana.gateway import GrafanaGateway

app = typer.Typer(no_args_is_help=True)

UrlFlag = Annotated[str | None, typer.Option("--url", help="Base URL of Grafana.")]
TokenFileFlag = Annotated[Path | None, typer.Option("--token-file", help="File with the token of a service account.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Planned or completed change of one folder or dashboard."""

    kind: str
    uid: str
    action: str
    details: tuple[str, ...] = ()


@app.command("generate")
def generate_files(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 if a file is stale.")] = False,
) -> None:
    """Write the committed dashboard files from their builders."""
    from deploy.grafana import generate

    if check:
        stale = generate.drift()
        if stale:
            raise fail("; ".join(stale) + "; run 'shelfwise grafana generate'")
        return
    with for_others(ctx):
        written = generate.write()
    for path in written:
        console.print(f"wrote {path}", highlight=False)


@app.command()
def diff(ctx: typer.Context, url: UrlFlag = None, token_file: TokenFileFlag = None, as_json: JsonFlag = False) -> None:
    """Print the changes that `apply` would make on a Grafana server; exit code 3 if there is any."""
    changes = _plan(_gateway(ctx, url, token_file))
    _print_changes(changes, as_json=as_json)
    if any(change.action != "none" for change in changes):
        raise typer.Exit(Exit.HEALTH)


@app.command()
def apply(
    ctx: typer.Context,
    url: UrlFlag = None,
    token_file: TokenFileFlag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the changes and write nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Create or update the folder and the dashboards on a Grafana server."""
    from deploy.grafana import generate
    from deploy.grafana.gateway import Folder

    gateway = _gateway(ctx, url, token_file)
    changes = _plan(gateway)
    provisioned = [change.uid for change in changes if change.action == "refused"]
    if provisioned:
        raise fail(f"{', '.join(provisioned)}: provisioned from files, which the API must not overwrite")
    if not dry_run:
        gateway.ensure_folder(Folder(uid=generate.FOLDER_UID, title=generate.FOLDER_TITLE))
        for change in changes:
            if change.kind == "dashboard" and change.action != "none":
                gateway.put_dashboard(_wanted()[change.uid], generate.FOLDER_UID, "shelfwise grafana apply")
    _print_changes(changes, as_json=as_json)
    _warn_of_missing_sources(gateway)


@app.command()
def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    url: UrlFlag = None,
    token_file: TokenFileFlag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files and write nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the dashboards that the server stores to files; exit code 1 if one is missing there."""
    from deploy.grafana import generate

    gateway = _gateway(ctx, url, token_file)
    stored = {uid: gateway.dashboard(uid) for uid in _wanted()}
    paths = {uid: out / f"{uid}.json" for uid, entry in stored.items() if entry is not None}
    if not dry_run:
        with for_others(ctx):
            out.mkdir(parents=True, exist_ok=True)
            for uid, path in paths.items():
                entry = stored[uid]
                assert entry is not None
                path.write_bytes(generate.encode(entry.model))
    if as_json:
        print_json({uid: str(path) for uid, path in paths.items()})
    else:
        print_table("Dashboards", ("uid", "file"), [(uid, paths.get(uid, "missing there")) for uid in stored])
    if len(paths) < len(stored):
        raise typer.Exit(Exit.FAILURE)


def _gateway(ctx: typer.Context, url: str | None, token_file: Path | None) -> "GrafanaGateway":
    from deploy.grafana.gateway import connect

    flags = {"grafana.url": url, "grafana.token_file": str(token_file) if token_file else None}
    return connect(context(ctx, flags).settings.get("grafana", GrafanaSettings), sleep=time.sleep)


def _wanted() -> dict[str, dict[str, object]]:
    from deploy.grafana import generate, model

    return {dashboard.uid: model.render(dashboard) for dashboard in generate.DASHBOARDS}


def _plan(gateway: "GrafanaGateway") -> list[Change]:
    from deploy.grafana import compare, generate
    from deploy.grafana.gateway import Folder

    folder = gateway.folder(generate.FOLDER_UID)
    same = folder == Folder(uid=generate.FOLDER_UID, title=generate.FOLDER_TITLE)
    changes = [Change(kind="folder", uid=generate.FOLDER_UID, action=_action(found=folder is not None, same=same))]
    for uid, model in _wanted().items():
        stored = gateway.dashboard(uid)
        left = compare.differences(model, stored.model) if stored else []
        if stored and stored.folder_uid != generate.FOLDER_UID:
            left.append(f"/folder: ours '{generate.FOLDER_UID}', theirs '{stored.folder_uid}'")
        action = _action(found=stored is not None, same=not left)
        if stored and stored.provisioned and left:
            action = "refused"
        changes.append(Change(kind="dashboard", uid=uid, action=action, details=tuple(left)))
    return changes


def _action(*, found: bool, same: bool) -> str:
    return "create" if not found else "none" if same else "update"


def _print_changes(changes: list[Change], *, as_json: bool) -> None:
    if as_json:
        print_json(changes)
        return
    rows = [(change.kind, change.uid, change.action, "\n".join(change.details[:10])) for change in changes]
    print_table("Grafana", ("kind", "uid", "action", "differences"), rows)


def _warn_of_missing_sources(gateway: "GrafanaGateway") -> None:
    from deploy.commands.output import err_console
    from deploy.grafana.model import PLUGINS

    present = gateway.datasource_types()
    for plugin in PLUGINS.values():
        if plugin not in present:
            err_console.print(
                f"warning: this Grafana has no data source of type {plugin}; the dashboard that needs it stays empty"
            )
