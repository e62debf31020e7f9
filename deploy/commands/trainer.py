"""`shelfwise trainer`: train lineages, show their versions, and evaluate models on logs."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.evaluate import evaluate
from deploy.commands.examination import examination
from deploy.commands.groups import with_groups
from deploy.commands.output import (
    JsonFlag,
    MetricsHost,
    MetricsPort,
    assignments,
    context,
    database,
    err_console,
    print_json,
    print_table,
)
from deploy.stop_event import stop_event

if TYPE_CHECKING:
    from trainer.versions.registry import Registry

GROUPS = {
    "annotate": "Have people judge the items of lists.",
    "quarantine": "Ranges of the log that breakers kept from being learned.",
}
"""Group of commands to its help."""

app = typer.Typer(no_args_is_help=True, cls=with_groups("deploy.commands", GROUPS))
app.command("evaluate")(evaluate)
app.command("examination")(examination)


@app.command()
def run(
    ctx: typer.Context,
    lineage: Annotated[str, typer.Argument(help="Name of the lineage.")],
    model: Annotated[
        str | None, typer.Option(help="armmt, prm, setrank, dlcm, din, mlp, mmr, dpp, pier or smar.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="tiny or full.")] = None,
    model_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Set a key of the section [model]; repeatable.")
    ] = None,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="Take and record learning settings that differ from the checkpoint's, and larger id tables."
        ),
    ] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="LINEAGE[:VERSION]",
            help="Start a new lineage from the weights of this version, the live one if none is named.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINEAGE:VERSION", help="Version that teaches SMAR the order of its item type; repeatable."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of fresh weights and of dropout.")] = None,
    metrics_host: MetricsHost = None,
    metrics_port: MetricsPort = None,
    vector_width: Annotated[int | None, typer.Option(help="Width of the vectors in `items`.")] = None,
    checkpoint_s: Annotated[
        int | None, typer.Option(help="Seconds of watermark time between checkpoint boundaries.")
    ] = None,
    publish_s: Annotated[int | None, typer.Option(help="Seconds of watermark time between versions.")] = None,
) -> None:
    """Train a lineage from the `sessions` topic until SIGTERM or Ctrl-C, from its newest checkpoint on."""
    import platform
    import time
    from importlib.metadata import version

    import numpy as np

    from deploy.kafka.choice import configured
    from deploy.migrations.revision import open_database
    from stream.schemas.names import check_name
    from stream.wall_clock import epoch_ms
    from trainer.configs import LearningSettings, ModelConfig
    from trainer.lineage import Lineage
    from trainer.pauses import Pauses
    from trainer.run import Dependencies, Folders
    from trainer.run import run as train
    from trainer.settings import TrainerSettings
    from trainer.versions.registry import Registry
    from trainer.versions.signature import SigningSettings, VersionKeys
    from trainer.versions.wanted import Wanted, taught

    loaded = context(
        ctx,
        {
            "trainer.metrics_host": metrics_host,
            "trainer.metrics_port": metrics_port,
            "trainer.publish_s": publish_s,
            "trainer.model": model,
            "trainer.profile": profile,
            "learning.checkpoint_s": checkpoint_s,
            "learning.seed": seed,
            "model.vector_width": vector_width,
            **assignments(model_set or [], "--model-set", prefix="model."),
        },
    )
    check_name("lineage", lineage)
    stopping = stop_event(ctx)
    settings = loaded.settings.get("trainer", TrainerSettings)
    broker = configured(loaded)
    engine = open_database(loaded)
    folders = Folders.under(loaded.home, lineage)
    loop = train(
        Lineage(
            name=lineage,
            model=settings.model,
            profile=settings.profile,
            config=taught(loaded.settings.get("model", ModelConfig), teacher or [], Registry(engine)),
            learning=loaded.settings.get("learning", LearningSettings),
            code_version=version("shelfwise"),
        ),
        settings,
        broker,
        engine,
        folders=folders,
        dependencies=Dependencies(
            now_ms=epoch_ms,
            pauses=Pauses(monotonic_s=time.monotonic, wait=stopping.wait, random=np.random.default_rng().random),
            is_stopping=stopping.is_set,
        ),
        device=device,
        adopt=adopt,
        warm_start=None if warm_start is None else Wanted.parse(warm_start, "--warm-start"),
        keys=VersionKeys.of(loaded.settings.get("signing", SigningSettings)),
        # The lock on the folder makes two processes of one name impossible, so a restart may take its lease over.
        holder=f"{platform.node()}:{folders.checkpoints.resolve()}"[-255:],
    )
    counted = ", ".join(f"{name} {count}" for name, count in sorted(loop.learner.counters.items()))
    err_console.print(f"lineage {lineage}: version {loop.progress.version}, {counted or 'nothing read'}")


@app.command()
def versions(
    ctx: typer.Context,
    lineage: Annotated[str | None, typer.Option(help="Only this lineage.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List versions, oldest first."""
    found = _registry(ctx).versions(lineage)
    if as_json:
        print_json(found)
        return
    print_table(
        "versions",
        ("lineage", "version", "status", "term", "artifact", "parent"),
        [(v.lineage, v.version, v.status, v.term, v.artifact[:12], v.parent and v.parent[:12]) for v in found],
    )


@app.command()
def lineages(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List lineages."""
    found = _registry(ctx).lineages()
    if as_json:
        print_json(found)
        return
    columns = ("name", "model", "profile")
    print_table("lineages", columns, [[getattr(one, column) for column in columns] for one in found])


@app.command()
def show(ctx: typer.Context, sha256: Annotated[str, typer.Argument(help="Address of the version.")]) -> None:
    """Verify one version in full, its signature too if there is a key, and print its manifest as JSON."""
    from trainer.versions import artifact, writing
    from trainer.versions.signature import SigningSettings, VersionKeys

    called = context(ctx)
    keys = VersionKeys.of(called.settings.get("signing", SigningSettings))
    version = artifact.load(called.home / "artifacts", sha256, keys=keys)
    worst = writing.verify_golden(version)
    print_json(
        {"sha256": sha256, "is_signature_checked": bool(keys), "golden_difference": worst, "manifest": version.manifest}
    )


def _registry(ctx: typer.Context) -> "Registry":
    from trainer.versions.registry import Registry

    return Registry(database(ctx))
