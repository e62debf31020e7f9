"""`shelfwise stream dead-letters`: what did not join, and sending it again."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from deploy.commands.ingest import CurrencyOption
from deploy.commands.output import JsonFlag, console, context, err_console, fail, print_json, print_table
from deploy.commands.times import TIME_HELP, iso_time, parse_time
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from deploy.configuration import Context
    from stream.broker.settings import Broker
    from stream.schemas.dead_letter import Collected, DeadLetter, Filter

app = typer.Typer(no_args_is_help=True)

Topic = Literal["dead_letters", "unjoined"]
TopicOption: TypeAlias = Annotated[Topic, typer.Option("--topic", help="Refused records, or late and orphaned ones.")]
ReasonOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--reason", metavar="CODE", help="Only this reason; repeatable.")
]
FromOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help=f"Appended at or after: {TIME_HELP}"),
]
ToOption: TypeAlias = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Appended before.")]
_COLUMNS = ("source", "line", "reason", "detail", "age", "attempt", "redriven")
_MAX_DETAIL = 60


@app.command("list")
def list_(
    ctx: typer.Context,
    topic: TopicOption = "dead_letters",
    reason: ReasonOption = None,
    from_: FromOption = None,
    to: ToOption = None,
    limit: Annotated[int, typer.Option(min=0, help="Dead letters to show, the oldest; counts are of all.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Count dead letters by reason and show their sources, never their contents."""
    from deploy.kafka.choice import whereabouts
    from stream.schemas.dead_letter import count_reasons

    meant = _filter(reason, from_, to, None)
    called = context(ctx)
    broker = _broker(called)
    found = _collect(called, broker, topic)
    if not found.dead_letters:
        where = whereabouts(called, broker)
        err_console.print(f"nothing found in {topic} ({where})", highlight=False, soft_wrap=True)
    chosen = meant.select(found.dead_letters)
    counts = count_reasons(chosen)
    if as_json:
        print_json(
            {
                "topic": topic,
                "dead_letters": len(chosen),
                "unreadable": found.num_unreadable,
                "reasons": dict(counts.most_common()),
                "shown": chosen[:limit],
            }
        )
        return
    now_ms = epoch_ms()
    print_table(f"{len(chosen)} dead letters in {topic}", ("reason", "dead letters"), counts.most_common())
    print_table(f"the oldest {min(limit, len(chosen))}", _COLUMNS, [_row(each, now_ms) for each in chosen[:limit]])
    if found.num_unreadable:
        err_console.print(f"{found.num_unreadable} records carry no headers of a dead letter")


@app.command("show")
def show(
    ctx: typer.Context,
    source_topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where the record lies, or ingest:FORMAT.")],
    partition: Annotated[int, typer.Argument()],
    offset: Annotated[int, typer.Argument()],
    topic: TopicOption = "dead_letters",
    as_hex: Annotated[bool, typer.Option("--hex", help="Print the bytes in hexadecimal digits.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the headers and the original bytes of one dead letter; it may hold personal data."""
    from deploy.kafka.choice import whereabouts
    from stream.broker.reader import read_to_end
    from stream.schemas.dead_letter import at, payloads

    called = context(ctx)
    broker = _broker(called)
    found = at(_collect(called, broker, topic).dead_letters, (source_topic, partition, offset))
    if not found:
        where = whereabouts(called, broker)
        raise fail(f"no dead letter of {source_topic}/{partition}/{offset} in {topic} ({where})")
    # Several lines of one order may have dead letters; their bytes are the same.
    (record,) = payloads(read_to_end(broker, topic), {found[0].location})
    if as_json:
        text, digits = _text(record.value), record.value.hex() if record.value is not None else None
        shown = {"value": None if as_hex else text, "value_hex": digits if as_hex or text is None else None}
        print_json({"dead_letters": found, "key": _text(record.key), **shown})
        return
    for letter in found:
        for name in ("topic", "partition", "offset", "line_id", "reason", "detail", "attempt", "size", "is_truncated"):
            _print(f"{name}: {_safe(str(getattr(letter, name)))}")
        for name in ("append_ts", "first_seen", "redriven_ts"):
            moment = getattr(letter, name)
            _print(f"{name}: {moment} {_iso(moment)}" if moment is not None else f"{name}: none")
    if record.value is None:
        _print("value: null")
        return
    text = None if as_hex else _text(record.value)
    _print(text if text is not None else record.value.hex(" "))


@app.command("redrive")
def redrive(
    ctx: typer.Context,
    topic: TopicOption = "dead_letters",
    reason: ReasonOption = None,
    from_: FromOption = None,
    to: ToOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Source records to redrive, the oldest first.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Records a second.")] = 200.0,
    max_attempts: Annotated[int, typer.Option(min=1, help="Leave those that were tried so often.")] = 3,
    query_name: Annotated[
        str, typer.Option(help="For rejected payloads of other conventions: what carries the query id.")
    ] = "query_id",
    currency: CurrencyOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count; send nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write dead letters back to their source topics; each is a new record with its own outcome."""
    import time

    from stream.adapters import Options
    from stream.broker.producer import Producer
    from stream.broker.reader import read_to_end
    from stream.operations import redrive
    from stream.query_hash_key import PrivacySettings, query_hash_key

    called = context(ctx)
    broker = _broker(called)
    found = _collect(called, broker, topic)
    planned = redrive.plan(found.dead_letters, _filter(reason, from_, to, limit), max_attempts=max_attempts)
    privacy = called.settings.get("privacy", PrivacySettings)
    key = b"" if dry_run else query_hash_key(privacy, called.home)

    def run(producer: Producer | None) -> redrive.Redriven:
        return redrive.redrive(
            producer,
            topic,
            planned,
            read_to_end(broker, topic),
            options=Options(
                query_hash_key=key,
                client_id_key=privacy.client_id_key.encode(),
                currency=currency,
                query_name=query_name,
            ),
            bucket=redrive.TokenBucket(rate, time.monotonic, time.sleep),
            now_ms=epoch_ms,
        )

    if dry_run:
        done = run(None)
    else:
        with Producer(broker) as producer:
            done = run(producer)
    if as_json:
        print_json({"topic": topic, "dry_run": dry_run, "dead_letters": done.num_dead_letters, "records": done.records,
                    "reasons": done.reasons, "refused": done.refused})  # fmt: skip
        return
    verb = "would be written" if dry_run else "written"
    print_table(
        f"{done.num_dead_letters} dead letters of {topic}", ("topic", f"records {verb}"), sorted(done.records.items())
    )
    for cause, number in done.refused.most_common():
        err_console.print(f"{number} dead letters left: {cause}", highlight=False)


def _broker(called: "Context") -> "Broker":
    from deploy.kafka.choice import configured

    return configured(called)


def _collect(called: "Context", broker: "Broker", topic: str) -> "Collected":
    from deploy.kafka.choice import whereabouts
    from stream.broker.admin import partition_counts
    from stream.broker.reader import read_to_end
    from stream.schemas.dead_letter import collect

    if topic not in partition_counts(broker):
        where = whereabouts(called, broker)
        raise fail(f"topic {topic} does not exist ({where}); run `shelfwise kafka topics`")
    return collect(read_to_end(broker, topic))


def _filter(reasons: list[str] | None, from_: str | None, to: str | None, limit: int | None) -> "Filter":
    from stream.schemas.dead_letter import Filter
    from stream.schemas.outcomes import OUTCOME_OF_REASON

    for reason in reasons or ():
        if reason not in OUTCOME_OF_REASON:
            raise typer.BadParameter(f"'{reason}' is none of {', '.join(OUTCOME_OF_REASON)}", param_hint="--reason")
    return Filter(
        reasons=frozenset(reasons or ()), from_ts=parse_time(from_, "--from"), to_ts=parse_time(to, "--to"), limit=limit
    )


def _row(letter: "DeadLetter", now_ms: int) -> tuple[str, ...]:
    where = f"{letter.topic}/{letter.partition}/{letter.offset}"
    age_s = max(0, now_ms - letter.first_seen) // 1_000
    hours, minutes = age_s // 3_600, age_s % 3_600 // 60
    redriven = _iso(letter.redriven_ts) if letter.redriven_ts is not None else ""
    # Detail and line are strangers' text: no control characters of a terminal.
    detail = _safe(letter.detail if len(letter.detail) <= _MAX_DETAIL else letter.detail[:_MAX_DETAIL] + "…")
    return (_safe(where), _safe(letter.line_id), letter.reason, detail, f"{hours} h {minutes:02} m",
            str(letter.attempt), redriven)  # fmt: skip


def _safe(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _text(value: bytes | None) -> str | None:
    """Return bytes as text, or None if a terminal had better not see them."""
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        return None
    return text if value is not None and all(each.isprintable() or each in "\n\t" for each in text) else None


def _print(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _iso(moment_ms: int) -> str:
    try:
        return iso_time(moment_ms)
    except (ValueError, OverflowError, OSError):
        return "-"
