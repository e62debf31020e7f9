"""`shelfwise serving`: run the ranking service, post a request, and print the OpenAPI document."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import JsonFlag, context, print_json, print_table, settings_of

if TYPE_CHECKING:
    from serving.settings import ServingSettings

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address on which the service listens.")] = None,
    port: Annotated[int | None, typer.Option(help="Port on which the service listens; 0 takes a free one.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Milliseconds until a request is answered, scored or in incoming order.")
    ] = None,
    drain_s: Annotated[
        float | None, typer.Option(help="Seconds between SIGTERM, when /readyz turns 503, and the close.")
    ] = None,
    trust_event_ts: Annotated[
        bool | None,
        typer.Option("--trust-event-ts/--no-trust-event-ts", help="Take the time of impressions from requests."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port; 0 starts one per core.")] = None,
    worker: Annotated[int, typer.Option(hidden=True, help="Number of this process among them.")] = 0,
) -> None:
    """Answer rank requests until SIGTERM or Ctrl-C, and for another `serving.drain_s`."""
    from deploy import credentials
    from deploy.kafka.choice import configured
    from deploy.migrations.revision import open_database
    from deploy.workers import num_workers
    from serving import run as process
    from serving.credentials import CredentialWatch
    from serving.http.server import serve
    from serving.settings import ServingSettings
    from stream.query_hash_key import PrivacySettings, query_hash_key

    flags = {
        "host": host,
        "port": port,
        "deadline_ms": deadline_ms,
        "drain_s": drain_s,
        "trust_event_ts": trust_event_ts,
        "workers": workers,
    }
    overrides = {f"serving.{key}": value for key, value in flags.items()}
    loaded = context(ctx, overrides)
    settings = loaded.settings.get("serving", ServingSettings)
    present = credentials.of(loaded)
    if not worker and (num := num_workers(settings.workers)) > 1:
        _supervise(ctx, settings, num)
        return
    privacy = loaded.settings.get("privacy", PrivacySettings)
    service = process.build(
        settings,
        home=loaded.home,
        broker=configured(loaded),
        engine=open_database(loaded, may_be_unreachable=True, at_most_s=process.DATABASE_TIMEOUT_S),
        query_hash_key=query_hash_key(privacy, loaded.home),
        client_id_key=privacy.client_id_key.encode(),
        credentials=CredentialWatch(present, lambda: credentials.of(settings_of(ctx, overrides))),
        worker=worker,
    )
    serve(service)


def _supervise(ctx: typer.Context, settings: "ServingSettings", num: int) -> None:
    """Run the workers of one port."""
    import logging
    import time

    from numpy.random import default_rng

    from deploy import workers
    from deploy.stop_event import stop_event
    from deploy.supervisor import Supervisor
    from serving.http.listening import reserve

    log = logging.getLogger(__name__)
    supervisor = Supervisor(monotonic_s=time.monotonic, jitter=default_rng().random, notify=log.warning)
    with reserve(settings.host, settings.port) as reserved:
        port = reserved.getsockname()[1]
        log.info("%d workers on port %d", num, port)
        workers.run(
            supervisor,
            lambda worker: workers.command(sys.argv[1:], port=port, worker=worker),
            num=num,
            drain_s=settings.drain_s,
            stopping=stop_event(ctx),
        )


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the service."""
    from serving.http.openapi import document

    print_json(document())


@app.command()
def token(
    role: Annotated[str, typer.Argument(help="score, collect, read or annotate.")],
    expires: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="First day (UTC) on which it is refused; never by default.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a bearer token, and print it with the line for `serving.tokens`; the token itself is stored nowhere."""
    import os
    from datetime import UTC, date, datetime

    from serving.tokens import Role, make
    from stream.errors import ConfigError
    from stream.wall_clock import epoch_ms

    roles = {each.value: each for each in Role}
    if role not in roles:
        raise ConfigError(f"role '{role}': expected one of {', '.join(roles)}")
    try:
        day = None if expires is None else date.fromisoformat(expires)
    except ValueError as error:
        raise ConfigError(f"--expires {expires}: expected a day such as 2027-03-01") from error
    if day is not None and day <= datetime.fromtimestamp(epoch_ms() / 1_000, UTC).date():
        raise ConfigError(f"--expires {expires}: the token would be refused from the start, expected a day to come")
    text, line = make(roles[role], os.urandom, day)
    if as_json:
        print_json({"token": text, "line": str(line)})
    else:
        typer.echo(f"token: {text}\nline:  {line}")


@app.command()
def rank(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="JSON file with one request; - reads standard input.")],
    url: Annotated[str | None, typer.Option(help="URL of the service; the configured address by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Post one request and print the answer."""
    from serving.http.client import rank as ask
    from serving.settings import ServingSettings

    settings = context(ctx).settings.get("serving", ServingSettings)
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    answer = ask(url or f"http://{settings.host}:{settings.port}", body, token=settings.caller_token)
    if as_json:
        print_json(answer)
        return
    policy = f"{answer.lineage or 'incoming order'} version {answer.version or '-'}"
    where = f"arm {answer.arm} of {answer.experiment}" if answer.arm else "outside of experiments"
    note = f", fallback: {answer.fallback}" if answer.fallback else ""
    print_table(
        f"query {answer.query_id}: {policy}, {where}{note}, {answer.latency_us} us",
        ("position", "item", "rank in", "score"),
        [(i.position, i.item_id, i.rank_in, None if i.score is None else f"{i.score:.4f}") for i in answer.items],
    )
