"""`shelfwise abtest`: the commands on experiments, in the order of the help."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands import abtest_analyze, abtest_plan, abtest_ramp, abtest_rebuild, abtest_report, abtest_services
from deploy.commands.arguments import ExperimentArgument, LayerOption
from deploy.commands.output import JsonFlag, console, context, database, fail, print_json, print_table
from stream.errors import ConfigError
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from abtest.experiment import Experiment

app = typer.Typer(no_args_is_help=True)


def list_experiments(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print all experiments."""
    from abtest.store import ExperimentStore

    found = ExperimentStore(database(ctx)).list()
    if as_json:
        print_json(found)
    else:
        print_table("experiments", ("name", "layer", "status", "arms", "primary", "decision"), [_row(e) for e in found])


def assign(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(help="Client id.")],
    layer: LayerOption = "ranker",
    as_json: JsonFlag = False,
) -> None:
    """Print the bucket and the arm of a client, by the id under which the shop knows it."""
    from abtest.store import ExperimentStore
    from deploy.migrations.revision import open_database
    from stream.query_hash_key import PrivacySettings
    from stream.schemas.identity import client_hash

    called = context(ctx)
    active = ExperimentStore(open_database(called)).active(layer)
    if active is None:
        raise fail(f"no experiment runs in layer '{layer}'")
    key = called.settings.get("privacy", PrivacySettings).client_id_key.encode()
    bucket, arm = active.assign(client_hash(client, key) if key else client)
    document = {
        "client_id": client,
        "layer": layer,
        "experiment": active.experiment,
        "epoch": active.epoch,
        "bucket": bucket,
        "arm": arm and arm.name,
        "lineage": arm and arm.lineage,
        "policy": arm and arm.policy,
    }
    if as_json:
        print_json(document)
    else:
        print_table(f"client {client}", ("key", "value"), list(document.items()))


def stop(
    ctx: typer.Context,
    name: ExperimentArgument,
    decision: Annotated[str | None, typer.Option(help="Text of the decision, stored with the experiment.")] = None,
) -> None:
    """Stop an experiment; its facts and results stay."""
    from abtest.store import ExperimentStore

    ExperimentStore(database(ctx)).stop(name, now_ts=epoch_ms(), decision=decision)
    console.print(f"experiment {name} is stopped", highlight=False)


def erase(
    ctx: typer.Context,
    client: Annotated[
        str, typer.Argument(metavar="CLIENT", help="Client as the facts name it: its hash, where ids are hashed.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Remove all facts, orders and exposures of one client; results keep their sums."""
    from abtest.erasure import erase as remove

    found = remove(database(ctx), client)
    if as_json:
        print_json(found)
        return
    console.print(
        f"removed: {found.sessions} sessions, {found.orders} orders, {found.lines} lines without a session, "
        f"{found.exposures} exposures",
        highlight=False,
    )


def validate(
    runs: Annotated[int, typer.Option(help="Experiments of each number of looks.")] = 2_000,
    looks: Annotated[list[int] | None, typer.Option(help="Equally spaced looks; 1, 7 and 30 by default.")] = None,
    primary: Annotated[str, typer.Option(help="Experiment metric that decides.")] = "cvr",
    weight: Annotated[float, typer.Option(help="Share of the clients in the treatment.")] = 0.5,
    buyers: Annotated[float, typer.Option(help="Chance of an order in a session.")] = 0.08,
    clients: Annotated[int, typer.Option(min=2, help="Clients of both arms.")] = 4_800,
    lift: Annotated[float, typer.Option(help="True relative lift of the metric.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the runs.")] = 2026,
    as_json: JsonFlag = False,
) -> None:
    """Simulate experiments and print how often the verdict is wrong or, with a lift, right; alpha is 0.05."""
    from abtest.validation import validate as simulate

    try:
        found = [
            simulate(
                seed,
                runs=runs,
                num_looks=number,
                primary=primary,
                weight=weight,
                buyers=buyers,
                clients=clients,
                lift=lift,
            )
            for number in looks or (1, 7, 30)
        ]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        print_json(found)
    else:
        rows = [
            (
                entry.looks,
                entry.runs,
                f"{entry.error:.2%}",
                entry.higher,
                entry.lower,
                f"{entry.sequence / entry.runs:.2%}",
                entry.without_look,
                None if entry.coverage is None else f"{entry.coverage:.2%}",
                None if entry.forecast is None else f"{entry.forecast:.2%}",
            )
            for entry in found
        ]
        columns = (
            "looks",
            "runs",
            "decided",
            "ship",
            "do not ship",
            "outside the sequence",
            "without a look",
            "sets with the lift",
            "power by the plan",
        )
        title = f"{primary}, lift {lift:g}, treatment {weight:g}, buyers {buyers:g}, seed {seed}"
        print_table(title, columns, rows)


def _row(found: "Experiment") -> tuple[object, ...]:
    arms = ", ".join(f"{arm.name}={arm.lineage or abtest_plan.POLICY + str(arm.policy)}" for arm in found.arms)
    return found.key, found.layer, found.status, arms, found.plan.primary or "none", found.decision or ""


_COMMANDS: Mapping[str, Callable[..., None]] = {
    "create": abtest_plan.create,
    "power": abtest_plan.power,
    "list": list_experiments,
    "assign": assign,
    "stop": stop,
    "report": abtest_report.report,
    "decide": abtest_report.decide,
    "erase": erase,
    "validate": validate,
    "analyze": abtest_analyze.analyze,
    "ramp": abtest_ramp.ramp,
    "ramps": abtest_ramp.ramps,
    "rebuild": abtest_rebuild.rebuild,
    "sink": abtest_services.sink,
    "watch": abtest_services.watch,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
