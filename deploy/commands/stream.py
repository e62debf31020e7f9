"""`shelfwise stream`: the join worker, and records in and out."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.commands.groups import with_groups
from deploy.commands.ingest import ingest
from deploy.commands.output import (
    Exit,
    JsonFlag,
    MetricsPort,
    console,
    context,
    err_console,
    fail,
    print_json,
    print_table,
)
from deploy.commands.times import TIME_HELP, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.configuration import Context
    from stream.broker.settings import Broker
    from stream.schemas.records import Record

GROUPS = {
    "dead-letters": "What did not join: list, show, send again.",
    "replay": "Send recorded events through the topics in their own time.",
}
"""Group of commands to its help."""

app = typer.Typer(no_args_is_help=True, cls=with_groups("deploy.commands", GROUPS))
app.command("ingest")(ingest)

MAX_SHOWN_FAULTS = 20


def _broker(called: "Context") -> "Broker":
    from deploy.kafka.choice import configured

    return configured(called)


@app.command("worker")
def worker(
    ctx: typer.Context,
    ticks: Annotated[
        str | None,
        typer.Option(metavar="worker|driver", help="Writer of ticks; `driver` beside a replay or a simulation."),
    ] = None,
    metrics_port: MetricsPort = None,
    instance: Annotated[str | None, typer.Option(help="Static member name; its restart moves no partition.")] = None,
) -> None:
    """Run one join worker until SIGTERM or Ctrl-C; exit code 1 if a write cannot be confirmed."""
    import asyncio

    from stream.agents.metrics import JoinMetrics
    from stream.agents.settings import WorkerSettings
    from stream.agents.worker import Worker
    from stream.broker.admin import warn_of_wrong_settings
    from stream.join.settings import JoinSettings

    called = context(ctx, {"join.ticks": ticks, "worker.metrics_port": metrics_port, "worker.instance": instance})
    settings = called.settings.get("worker", WorkerSettings)
    join_settings = called.settings.get("join", JoinSettings)
    broker = _broker(called)
    warn_of_wrong_settings(broker, retention_ms=join_settings.retention_ms)

    async def run() -> None:
        joiner = Worker(
            broker,
            settings,
            join_settings,
            folder=called.home / "stream",
            metrics=JoinMetrics(),
        )
        await joiner.run()

    asyncio.run(run())


@app.command("produce")
def produce(
    ctx: typer.Context,
    topic: Annotated[Literal["impressions", "clicks", "conversions"], typer.Argument(help="Topic to write.")],
    file: Annotated[str, typer.Option(help="JSON lines, - for standard input.")],
    raw: Annotated[bool, typer.Option("--raw", help="Send lines that are no valid records too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send records from a file; refused lines are named, the others are sent, and the exit code is 1."""
    from stream.broker.producer import Producer
    from stream.operations.event_files import find, lines
    from stream.operations.produce import send_lines

    (found,) = find([file])
    source = lines(found)
    called = context(ctx)
    broker = _broker(called)
    require_topics(called, broker, [topic])
    with Producer(broker) as producer:
        produced = send_lines(producer, topic, source, raw=raw)
    if as_json:
        print_json({"sent": produced.num_sent, "refused": [{"line": n, "fault": f} for n, f in produced.refused]})
    else:
        err_console.print(f"{produced.num_sent} records sent to {topic}, {len(produced.refused)} refused")
    for number, fault in produced.refused[:MAX_SHOWN_FAULTS]:
        err_console.print(f"line {number}: {fault}", highlight=False, soft_wrap=True)
    if produced.refused:
        raise fail(f"{len(produced.refused)} lines of {file} are no valid {topic}")
    if produced.num_sent == 0:
        raise fail(f"no events in {file}")


@app.command("export")
def export(
    ctx: typer.Context,
    topic: Annotated[
        Literal["sessions", "unlinked_lines", "annotations", "unjoined", "dead_letters"],
        typer.Argument(help="Records to read."),
    ],
    out: Annotated[Path, typer.Option(help="File to write, .jsonl or .parquet.")],
    latest: Annotated[
        bool, typer.Option("--latest", help="Only the highest revision of each session, or the annotations that count.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Read a topic to its end and write it to a file; `unlinked_lines` are order lines that joined no session."""
    from stream.operations.export import export as write

    called = context(ctx)
    broker = _broker(called)
    require_topics(called, broker, ["sessions" if topic == "unlinked_lines" else topic])
    try:
        num_rows = write(broker, topic, out, latest=latest)
    except OSError as error:
        raise fail(f"--out {out}: {error.filename or out}: {error.strerror or error}") from error
    if num_rows == 0:
        _say_nothing_found(called, broker, topic)
    if as_json:
        print_json({"rows": num_rows, "out": str(out)})
    else:
        console.print(f"{num_rows} rows written to {out}", highlight=False, soft_wrap=True)


@app.command("recount")
def recount(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Recount every event from the topics alone; exit code 3 when the sum does not close."""
    from stream.join.settings import JoinSettings
    from stream.operations.recount import recount as count

    called = context(ctx)
    broker = _broker(called)
    counted = count(all_records(called, broker), called.settings.get("join", JoinSettings))
    if counted.produced == 0:
        _say_nothing_found(called, broker, "the event topics")
    if as_json:
        print_json({**asdict(counted), "is_closed": counted.is_closed})
    else:
        print_table("Events by outcome", ("outcome", "events"), counted.rows)
        console.print("closed" if counted.is_closed else "[bold red]not closed[/]", markup=True)
    if not counted.is_closed:
        raise typer.Exit(int(Exit.HEALTH))


@app.command("verify")
def verify(
    ctx: typer.Context,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=f"Only sessions shown at or after: {TIME_HELP}")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only sessions shown before.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute the sessions again in batch and compare them with the emitted ones; exit code 3 on a difference."""
    from stream.join.settings import JoinSettings
    from stream.operations.verify import verify as compare

    called = context(ctx)
    from_ts, to_ts = parse_time(from_, "--from") or 0, parse_time(to, "--to")
    broker = _broker(called)
    verdict = compare(
        all_records(called, broker), called.settings.get("join", JoinSettings), from_ts=from_ts, to_ts=to_ts
    )
    if verdict.expected == 0 and verdict.emitted == 0:
        _say_nothing_found(called, broker, "the event topics")
    if as_json:
        print_json({**asdict(verdict), "is_equal": verdict.is_equal})
    else:
        counts = [(name.replace("_", " "), number) for name, number in asdict(verdict).items() if name != "examples"]
        print_table("Sessions, emitted against recomputed", ("", "sessions"), counts)
        for query_id in verdict.examples:
            console.print(f"query {query_id}", highlight=False, soft_wrap=True)
        console.print("equal" if verdict.is_equal else "[bold red]not equal[/]", markup=True)
    if not verdict.is_equal:
        raise typer.Exit(int(Exit.HEALTH))


def all_records(called: "Context", broker: "Broker") -> "Iterator[Record]":
    """Yield all records of the topics that a recount needs."""
    from stream.broker.reader import read_to_end
    from stream.schemas import topics

    names = [*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS]
    require_topics(called, broker, names)
    for name in names:
        yield from read_to_end(broker, name)


def require_topics(called: "Context", broker: "Broker", names: list[str]) -> None:
    """Raise the end of the command if a topic does not exist."""
    from deploy.kafka.choice import whereabouts
    from stream.broker.admin import partition_counts

    missing = [name for name in names if name not in partition_counts(broker)]
    if missing:
        where = whereabouts(called, broker)
        raise fail(f"topic {', '.join(missing)} does not exist ({where}); run `shelfwise kafka topics`")


def _say_nothing_found(called: "Context", broker: "Broker", where: str) -> None:
    from deploy.kafka.choice import whereabouts

    found = f"nothing found in {where} ({whereabouts(called, broker)})"
    err_console.print(found, highlight=False, soft_wrap=True)
