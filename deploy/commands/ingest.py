"""`shelfwise stream ingest`: what other systems recorded, adapted to our topics."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.output import JsonFlag, context, err_console, fail, print_json, print_table
from stream.adapters import FORMATS, Options


def _known(name: str) -> str:
    if name not in FORMATS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(FORMATS)}")
    return name


def ingest(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="One payload per line, - for standard input.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="|".join(FORMATS), callback=_known, help="Format of the lines.")
    ],
    query_name: Annotated[
        str, typer.Option(help="Parameter or property that carries the query id where the convention has none.")
    ] = "query_id",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Adapt and count; send nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Adapt recorded events and send them; rejected lines go to `dead_letters` with their reason."""
    import time

    from deploy.kafka.choice import configured, whereabouts
    from stream.broker.admin import partition_counts
    from stream.broker.producer import Producer
    from stream.operations.ingest import ingest as send
    from stream.query_hash_key import PrivacySettings, query_hash_key
    from stream.schemas import topics

    called = context(ctx)
    broker = None if dry_run else configured(called)
    lines = _lines(file)
    # A dry run makes no key, because its hashes are not kept.
    privacy = called.settings.get("privacy", PrivacySettings)
    key = b"" if dry_run else query_hash_key(privacy, called.home)
    options = Options(query_hash_key=key, query_name=query_name)

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    if broker is None:
        done = send(None, format_, lines, options=options, now_ms=now_ms)
    else:
        missing = {*topics.EVENT_TOPICS, topics.DEAD_LETTERS} - partition_counts(broker).keys()
        if missing:
            where = whereabouts(called, broker)
            raise fail(f"topic {', '.join(sorted(missing))} does not exist ({where}); run `shelfwise kafka topics`")
        with Producer(broker) as producer:
            done = send(producer, format_, lines, options=options, now_ms=now_ms)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "lines": done.num_lines,
                "records": done.records,
                "dead_letters": done.num_letters,
                "rejected_events": done.reasons,
                "first_rejects": [{"line": n, "reason": r, "detail": d} for n, r, d in done.first_rejects],
            }
        )
        return
    rows = [*sorted(done.records.items()), (topics.DEAD_LETTERS, done.num_letters)]
    verb = "would be sent" if dry_run else "sent"
    print_table(f"{done.num_lines} lines of {format_}", ("topic", f"records {verb}"), rows)
    for reason, number in done.reasons.most_common():
        err_console.print(f"{number} events rejected: {reason}", markup=False, highlight=False)
    for number, reason, detail in done.first_rejects:
        err_console.print(f"line {number}: {reason}: {detail}", markup=False, highlight=False, soft_wrap=True)


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    path = Path(file)
    if not path.is_file():
        raise fail(f"{file} does not exist")
    with path.open("rb") as opened:
        yield from opened
