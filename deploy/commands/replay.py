"""`shelfwise stream replay`: recorded events through the topics in their own time, with ticks as the clock."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from deploy.commands.ingest import (
    CurrencyOption,
    FilesArgument,
    FormatOption,
    KeepUnmappedFlag,
    QueryNameOption,
    nothing_usable,
    print_rejects,
)
from deploy.commands.output import Exit, JsonFlag, console, context, err_console, fail, print_json, print_table
from deploy.commands.times import iso_time
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from deploy.configuration import Context
    from stream.broker.settings import Broker

_WARN_S = 10.0


class _FilesByDefault(TyperGroup):
    """A group whose command `files` needs no name: `replay --format ga4 FILE` is `replay files --format ga4 FILE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the name of the default command before arguments that begin with no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["files", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(no_args_is_help=True, cls=_FilesByDefault)


@app.command("files")
def files(
    ctx: typer.Context,
    files: FilesArgument,
    format_: FormatOption,
    query_name: QueryNameOption = "query_id",
    currency: CurrencyOption = None,
    keep_unmapped: KeepUnmappedFlag = False,
    patience_s: Annotated[
        float, typer.Option(min=1.0, help="Seconds to wait for a worker that writes nothing before giving up.")
    ] = 120.0,
    as_json: JsonFlag = False,
) -> None:
    """Join recorded events exactly: sort them, drive the clock, wait for the end and recount every event.

    Run `shelfwise stream worker --ticks driver` beside it. `files` may be left out: `replay --format ga4 FILE...`.
    """
    import time

    from stream.adapters import Options
    from stream.broker.producer import Producer
    from stream.join.settings import JoinSettings
    from stream.operations import event_files
    from stream.operations.ingest import Ingested
    from stream.operations.recorded_events import recorded, wait_for_join
    from stream.operations.recount import recount
    from stream.operations.replay import MOST_BEHIND_MS, run
    from stream.query_hash_key import PrivacySettings, query_hash_key

    called = context(ctx)
    payloads = event_files.EventFiles(event_files.find(files))
    broker = _broker(called)
    privacy = called.settings.get("privacy", PrivacySettings)
    key = query_hash_key(privacy, called.home)
    done = Ingested()
    started_s = time.monotonic()
    with Producer(broker) as dead_letters:
        events = recorded(
            dead_letters,
            format_,
            payloads,
            done,
            options=Options(
                query_hash_key=key,
                client_id_key=privacy.client_id_key.encode(),
                currency=currency,
                query_name=query_name,
                keep_unmapped=keep_unmapped,
            ),
            now_ms=epoch_ms,
        )
        first = next(events, None)
        if first is None:
            print_rejects(done)
            raise nothing_usable(done, payloads, format_)
        _require_earlier_clock(broker, first.event_ts)
        _report(f"replay: {sum(done.records.values())} records sorted in {time.monotonic() - started_s:.0f} s")
        summary = run(broker, chain([first], events), float("inf"), report=_report)
    warning = _Warning(time.monotonic() + _WARN_S)
    behind = wait_for_join(
        broker,
        summary.end_ts - MOST_BEHIND_MS,
        patience_s=patience_s,
        on_wait=lambda at, of: warning.take(time.monotonic(), at, of),
    )
    if behind:
        raise fail(
            f"{len(behind)} partitions have not reached the end and nothing was written for {patience_s:.0f} s: "
            "no worker with `--ticks driver` answers; the events are on the topics, and "
            "`shelfwise stream worker --ticks driver` joins them"
        )
    wall_s = time.monotonic() - started_s
    from deploy.commands.stream import all_records

    counted = recount(all_records(called, broker), called.settings.get("join", JoinSettings))
    if as_json:
        print_json(
            {
                "payloads": done.num_payloads,
                "skipped_lines": payloads.num_skipped,
                "records": done.records,
                "dead_letters": done.num_dead_letters,
                "rejected_events": done.reasons,
                "unmapped_kinds": done.unmapped,
                "ticks": summary.ticks,
                "wall_s": round(wall_s, 3),
                "recount": {**asdict(counted), "is_closed": counted.is_closed},
            }
        )
    else:
        print_rejects(done)
        num_records = sum(done.records.values())
        _report(f"replay: {num_records} records joined in {wall_s:.0f} s, {num_records / wall_s:.0f} a second")
        print_table("Events by outcome", ("outcome", "events"), counted.rows)
        console.print("closed" if counted.is_closed else "[bold red]not closed[/]", markup=True)
    if not counted.is_closed:
        raise typer.Exit(int(Exit.HEALTH))


@app.command("trivago")
def trivago(
    ctx: typer.Context,
    path: Annotated[Path, typer.Option(help="Parquet file with the columns of the challenge's log.")],
    speed: Annotated[float, typer.Option(help="Simulated seconds per wall second, at most.")] = 1_000.0,
    as_json: JsonFlag = False,
) -> None:
    """Replay the hotel-search log; run the worker with `--ticks driver` beside it."""
    from deploy.simulation.replay import trivago
    from stream.operations.replay import run

    broker = _broker(context(ctx))
    summary = run(broker, trivago.load(path), speed, report=_report)
    if not any(summary.produced.values()):
        raise fail(f"no events in {path}")
    if as_json:
        print_json(summary)
    else:
        counts = ", ".join(f"{number} {topic}" for topic, number in summary.produced.items())
        console.print(f"{counts} in {summary.wall_s} s, {summary.ticks} ticks", highlight=False)


class _Warning:
    """A line about a join that has finished no partition for some time, printed once."""

    def __init__(self, at_s: float) -> None:
        self._at_s = at_s
        self._is_due = True

    def take(self, now_s: float, num_finished: int, num_partitions: int) -> None:
        if self._is_due and now_s > self._at_s and num_finished < num_partitions:
            self._is_due = False
            _report(
                f"replay: {num_finished} of {num_partitions} partitions have reached the end; "
                "is a `shelfwise stream worker --ticks driver` running?"
            )


def _broker(called: "Context") -> "Broker":
    from deploy.commands.stream import require_topics
    from deploy.kafka.choice import configured
    from stream.schemas import topics

    broker = configured(called)
    require_topics(called, broker, [*topics.INPUTS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS])
    return broker


def _require_earlier_clock(broker: "Broker", first_ts: int) -> None:
    from stream.operations.tick_writer import clock_ts

    clock = clock_ts(broker)
    if clock is not None and clock > first_ts:
        raise fail(
            f"the clock of these topics stands at {iso_time(clock)}, and events from {iso_time(first_ts)} on would be "
            "late; replay all files in one call, into topics of their own, for example those of another Kafka: "
            "set SHELFWISE_HOME to a new folder and run `shelfwise kafka up`"
        )


def _report(line: str) -> None:
    err_console.print(line, highlight=False, soft_wrap=True)
