"""The controller of rollouts, `shelfwise rollout run`: a process that moves versions by their gates."""

import typer

from deploy.commands.output import MetricsHost, MetricsPort, context
from deploy.stop_event import stop_event


def run(
    ctx: typer.Context,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
) -> None:
    """Run the controller until SIGTERM or Ctrl-C: it moves the versions of gated lineages by their gates."""
    import os
    import platform
    import secrets
    from contextlib import ExitStack

    from deploy.migrations.revision import open_database
    from stream.probes import ProbeServer
    from stream.process_metrics import process_registry
    from stream.wall_clock import epoch_ms
    from trainer.rollout.controller import Controller
    from trainer.rollout.metrics import RolloutMetrics
    from trainer.rollout.settings import RolloutSettings
    from trainer.rollout.store import RolloutStore

    chosen = context(ctx, {"rollout.metrics_port": metrics_port, "rollout.metrics_host": metrics_host})
    stopping = stop_event(ctx)
    settings, registry = chosen.settings.get("rollout", RolloutSettings), process_registry()
    with ExitStack() as stack:
        engine = open_database(chosen)
        stack.callback(engine.dispose)
        controller = Controller(
            engine,
            RolloutStore(engine),
            holder=f"{platform.node()}:{os.getpid()}:{secrets.token_hex(4)}",
            now_ms=epoch_ms,
            metrics=RolloutMetrics(registry),
        )
        if settings.metrics_port:
            probes = ProbeServer(
                settings.metrics_host,
                settings.metrics_port,
                registry,
                lambda: controller.why_not_ready,
                section="rollout",
            )
            stack.enter_context(probes)
        controller.run(stopping.wait)
