"""`shelfwise stream ingest`: what other systems recorded, adapted to our topics."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from deploy.commands.output import JsonFlag, context, err_console, fail, print_json, print_table
from deploy.commands.times import iso_time
from stream.adapters import FORMATS
from stream.schemas.money import currency_code
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from stream.operations.event_files import EventFiles
    from stream.operations.ingest import Ingested


def _known(name: str) -> str:
    if name not in FORMATS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(FORMATS)}")
    return name


FilesArgument: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Files or patterns of payloads, also .gz or .zst; - for standard input."),
]
FormatOption: TypeAlias = Annotated[
    str, typer.Option("--format", metavar="|".join(FORMATS), callback=_known, help="Format of the payloads.")
]
QueryNameOption: TypeAlias = Annotated[
    str, typer.Option(help="Parameter or property that carries the query id where the convention has none.")
]
KeepUnmappedFlag: TypeAlias = Annotated[
    bool, typer.Option("--keep-unmapped", help="Store events of unmapped kinds as dead letters; they may be personal.")
]


def _currency(text: str | None) -> str | None:
    try:
        return text and currency_code(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


CurrencyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(callback=_currency, help="Currency of lists and orders that name none, such as EUR."),
]


def ingest(
    ctx: typer.Context,
    files: FilesArgument,
    format_: FormatOption,
    query_name: QueryNameOption = "query_id",
    currency: CurrencyOption = None,
    keep_unmapped: KeepUnmappedFlag = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Adapt and count; send nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Adapt recorded events and send them; rejected payloads go to `dead_letters` with their reason."""
    from deploy.kafka.choice import configured, whereabouts
    from stream.adapters import Options
    from stream.broker.admin import partition_counts
    from stream.broker.producer import Producer
    from stream.join.settings import JoinSettings
    from stream.operations.event_files import EventFiles, find
    from stream.operations.ingest import ingest as send
    from stream.query_hash_key import PrivacySettings, query_hash_key
    from stream.schemas import topics

    called = context(ctx)
    payloads = EventFiles(find(files))
    broker = None if dry_run else configured(called)
    if broker is not None:
        missing = {*topics.EVENT_TOPICS, topics.DEAD_LETTERS} - partition_counts(broker).keys()
        if missing:
            where = whereabouts(called, broker)
            raise fail(f"topic {', '.join(sorted(missing))} does not exist ({where}); run `shelfwise kafka topics`")
    # A dry run makes no key, because its hashes are not kept.
    privacy = called.settings.get("privacy", PrivacySettings)
    key = b"" if dry_run else query_hash_key(privacy, called.home)
    options = Options(
        query_hash_key=key,
        client_id_key=privacy.client_id_key.encode(),
        currency=currency,
        query_name=query_name,
        keep_unmapped=keep_unmapped,
    )
    windows = called.settings.get("join", JoinSettings)
    live_s = windows.click_window_s + windows.lateness_s

    def warn(event_ts: int) -> None:
        oldest = iso_time(event_ts)
        err_console.print(
            f"warning: events from {oldest} on are older than the windows of the join ({live_s} s): a worker that runs "
            f"live counts them as late; `shelfwise stream replay --format {format_} FILE...` joins recorded events",
            highlight=False,
            soft_wrap=True,
        )

    oldest_live_ts = epoch_ms() - live_s * 1_000
    if broker is None:
        done = send(
            None, format_, payloads, options=options, now_ms=epoch_ms, oldest_live_ts=oldest_live_ts, on_old=warn
        )
    else:
        with Producer(broker) as producer:
            done = send(
                producer,
                format_,
                payloads,
                options=options,
                now_ms=epoch_ms,
                oldest_live_ts=oldest_live_ts,
                on_old=warn,
            )
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "files": payloads.files,
                "payloads": done.num_payloads,
                "skipped_lines": payloads.num_skipped,
                "records": done.records,
                "older_than_windows": done.num_old,
                "dead_letters": done.num_dead_letters,
                "rejected_events": done.reasons,
                "unmapped_kinds": done.unmapped,
                "first_rejects": [
                    {"file": payload.file, "line": payload.number, "reason": reason, "detail": detail}
                    for payload, reason, detail in done.first_rejects
                ],
            }
        )
    else:
        rows = [*sorted(done.records.items()), (topics.DEAD_LETTERS, done.num_dead_letters)]
        verb = "would be sent" if dry_run else "sent"
        print_table(f"{done.num_payloads} payloads of {format_}", ("topic", f"records {verb}"), rows)
        if payloads.num_skipped:
            err_console.print(f"{payloads.num_skipped} action lines of bulk files skipped", highlight=False)
        if done.num_old:
            err_console.print(f"{done.num_old} records are older than the windows of the join", highlight=False)
        print_rejects(done)
    if not done.records:
        raise nothing_usable(done, payloads, format_)


def nothing_usable(done: "Ingested", payloads: "EventFiles", format_: str) -> typer.Exit:
    """Print that files gave no record, and return the exception that ends the command."""
    files = ", ".join(payloads.files)
    if done.num_payloads == 0:
        return fail(f"no events in {files}")
    return fail(f"none of {done.num_payloads} payloads of {files} could be used as {format_}")


def print_rejects(done: "Ingested") -> None:
    """Print the rejected events by reason, the unmapped ones by kind, and the first rejects with their places."""
    for reason, number in done.reasons.most_common():
        err_console.print(f"{number} events rejected: {reason}", highlight=False)
    for kind, number in done.unmapped.most_common():
        err_console.print(f"{number} events of kind '{kind}'", highlight=False)
    for payload, reason, detail in done.first_rejects:
        place = f"{payload.file} line {payload.number}"
        err_console.print(f"{place}: {reason}: {detail}", highlight=False, soft_wrap=True)
