"""`shelfwise kafka`: the local Kafka, and the topics of the configured broker."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import Exit, JsonFlag, console, context, err_console, fail, print_json, print_table
from deploy.stop_event import stop_event

if TYPE_CHECKING:
    from deploy.configuration import Context
    from deploy.kafka.local import LocalKafka
    from stream.broker.settings import Broker, KafkaSettings

app = typer.Typer(no_args_is_help=True)

Port = Annotated[int | None, typer.Option(help="Port of the local broker; 0 takes a free one.")]


def _report(line: str) -> None:
    err_console.print(f"[kafka] {line}", highlight=False, soft_wrap=True)


def _settings(called: "Context") -> "KafkaSettings":
    from stream.broker.settings import KafkaSettings

    return called.settings.get("kafka", KafkaSettings)


def _local(called: "Context") -> "LocalKafka":
    from deploy.kafka.choice import local
    from deploy.kafka.settings import LocalKafkaSettings

    return local(called.settings.get("local_kafka", LocalKafkaSettings), called.home, _report)


def _make_topics(called: "Context", broker: "Broker", partitions: int) -> list[str]:
    """Create missing topics, correct the settings of the others, and return the names created."""
    from stream.broker.admin import correct_settings, create_topics
    from stream.join.settings import JoinSettings

    created = create_topics(broker, partitions)
    for correction in correct_settings(broker, retention_ms=called.settings.get("join", JoinSettings).retention_ms):
        _report(
            f"topic {correction.topic}: {correction.setting} was {correction.found}, "
            f"is {correction.wanted} for records from now on" + (f"; {correction.loss}" if correction.loss else "")
        )
    return created


@app.command("up")
def up(ctx: typer.Context, port: Port = None) -> None:
    """Start the local Kafka (downloading it the first time) and create the topics."""
    called = context(ctx, {"local_kafka.port": port})
    settings = _settings(called)
    local = _local(called)
    broker = local.start()
    with local.exclusively():
        created = _make_topics(called, broker, settings.partitions)
    _report(f"ready; {len(created)} topics created")
    console.print(broker.bootstrap, highlight=False)


@app.command("status")
def status(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show whether the local Kafka runs; exit code 3 if it does not answer."""
    found = _local(context(ctx)).status()
    if json:
        print_json(found)
    else:
        state = "ready" if found.ready else "running, does not answer" if found.pid else "not running"
        console.print(f"local Kafka at {found.address}: {state}", highlight=False)
        console.print(f"process {found.pid or '-'}, folder {found.folder}", highlight=False, soft_wrap=True)
    if not found.ready:
        raise typer.Exit(int(Exit.HEALTH))


@app.command("down")
def down(ctx: typer.Context) -> None:
    """Stop the local Kafka cleanly; its data stays."""
    stopped = _local(context(ctx)).stop()
    _report("stopped" if stopped else "was not running")


@app.command("topics")
def topics(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Create missing topics on the configured broker, correct the settings of others, verify counts, and list them."""
    from deploy.kafka.choice import configured
    from stream.broker.offsets import end_offsets
    from stream.schemas import topics as names

    called = context(ctx)
    settings = _settings(called)
    broker = configured(called)
    created = _make_topics(called, broker, settings.partitions)
    ends = end_offsets(broker, [topic.name for topic in names.ALL])
    rows = [
        {
            "topic": topic.name,
            "partitions": names.partitions_of(topic, settings.partitions),
            "records": sum(end for (name, _), end in ends.items() if name == topic.name),
            "created": topic.name in created,
            "config": dict(topic.config),
        }
        for topic in names.ALL
    ]
    if json:
        print_json(rows)
        return
    print_table(
        f"Topics on {broker.bootstrap}",
        ("topic", "partitions", "end offsets", ""),
        [(row["topic"], row["partitions"], row["records"], "created" if row["created"] else "") for row in rows],
    )


@app.command("memory")
def memory(ctx: typer.Context) -> None:
    """Host a memory broker until interrupted; others use it as `memory@HOST:PORT`. Nothing is durable."""
    from deploy.kafka.memory import MemoryBroker

    settings = _settings(context(ctx))
    if settings.broker not in {"auto", "memory"}:
        raise fail(f"kafka.broker is '{settings.broker}'; this command hosts a memory broker of its own", Exit.USAGE)
    ended = stop_event(ctx)
    with MemoryBroker(settings.partitions) as hosted:
        console.print(f"memory@{hosted.broker.bootstrap}", highlight=False)
        ended.wait()
