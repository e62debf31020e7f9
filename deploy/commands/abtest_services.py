"""The services of experiments, `shelfwise abtest sink` and `watch`: facts from sessions, and reports for dashboards."""

import threading
from typing import Annotated

import typer

from deploy.commands.output import JsonFlag, MetricsHost, MetricsPort, console, context, print_json
from deploy.stop_event import stop_event


def sink(
    ctx: typer.Context,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    until_end: Annotated[bool, typer.Option(help="Stop at the present end of the topic.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the `sessions` topic as facts into the database until SIGTERM or Ctrl-C."""
    from contextlib import ExitStack

    import numpy as np

    from abtest.settings import AbtestSettings
    from abtest.sink import Readiness, SinkMetrics, run
    from deploy.kafka.choice import configured
    from deploy.migrations.revision import open_database
    from stream.join.settings import JoinSettings
    from stream.probes import ProbeServer
    from stream.process_metrics import process_registry

    chosen = context(ctx, {"abtest.metrics_port": metrics_port, "abtest.metrics_host": metrics_host})
    stopping = stop_event(ctx)
    engine = open_database(chosen)
    broker = configured(chosen)
    registry = process_registry()
    settings, readiness = chosen.settings.get("abtest", AbtestSettings), Readiness()
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        if settings.metrics_port:
            probes = ProbeServer(
                settings.metrics_host, settings.metrics_port, registry, readiness.why_not_ready, section="abtest"
            )
            stack.enter_context(probes)
        total = run(
            broker,
            engine,
            stopping,
            random=np.random.default_rng().random,
            metrics=SinkMetrics(registry),
            readiness=readiness,
            refund_s=chosen.settings.get("join", JoinSettings).refund_s,
            until_end=until_end,
        )
    if as_json:
        print_json(total)


def watch(
    ctx: typer.Context,
    watch_s: Annotated[float | None, typer.Option(help="Seconds between two reports of an experiment.")] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    once: Annotated[bool, typer.Option("--once", help="Report on each experiment and stop.")] = False,
) -> None:
    """Report on all experiments that still change, for dashboards, until SIGTERM or Ctrl-C; it takes no look."""
    from contextlib import ExitStack

    import numpy as np

    from abtest.retention import Retention
    from abtest.settings import AbtestSettings
    from abtest.watch import Watcher, WatchMetrics, WatchReadiness, run
    from deploy.migrations.revision import open_database
    from stream.probes import ProbeServer
    from stream.process_metrics import process_registry

    chosen = context(
        ctx, {"abtest.watch_s": watch_s, "abtest.watch_port": metrics_port, "abtest.metrics_host": metrics_host}
    )
    settings = chosen.settings.get("abtest", AbtestSettings)
    with ExitStack() as stack:
        engine = open_database(chosen)
        stack.callback(engine.dispose)
        stopping = threading.Event() if once else stop_event(ctx)
        registry, readiness = process_registry(), WatchReadiness()
        metrics = WatchMetrics(registry)
        retention = Retention(
            engine,
            keep_facts_days=settings.keep_facts_days,
            keep_history_days=settings.keep_history_days,
            pause=stopping.wait,
            on_removed=lambda table, number: metrics.removed.labels(table).inc(number),
        )
        if once:
            for found in Watcher(engine, retention).round():
                console.print(f"{found.experiment}: {found.verdict}", highlight=False)
            return
        if settings.watch_port:
            probes = ProbeServer(
                settings.metrics_host, settings.watch_port, registry, lambda: readiness.reason, section="abtest"
            )
            stack.enter_context(probes)
        run(
            engine,
            stopping,
            settings.watch_s,
            random=np.random.default_rng().random,
            metrics=metrics,
            readiness=readiness,
            retention=retention,
        )
