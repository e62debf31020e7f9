"""Plans of experiments, `shelfwise abtest create` and `power`: arms, metrics, looks and the clients that they need."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.arguments import ExperimentArgument, LayerOption
from deploy.commands.output import JsonFlag, console, context, database, print_json, print_table
from stream.errors import ConfigError
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from abtest.experiment import Arm

POLICY = "policy:"
"""Beginning of an arm without a lineage, before the name of its policy."""


def create(
    ctx: typer.Context,
    name: ExperimentArgument,
    arm: Annotated[
        list[str],
        typer.Option(
            "--arm",
            metavar="ARM=LINEAGE",
            help="An arm and its lineage, or policy:incoming_order or policy:shuffle.",
        ),
    ],
    control: Annotated[str, typer.Option(help="Name of the control arm.")] = "control",
    share: Annotated[float, typer.Option(help="Share of all clients that take part.")] = 1.0,
    weight: Annotated[
        list[float] | None, typer.Option(help="Share of each arm, in the order of the arms; equal by default.")
    ] = None,
    layer: LayerOption = "ranker",
    salt: Annotated[str | None, typer.Option(help="Salt of the layer; by default the one in use.")] = None,
    primary: Annotated[
        str,
        typer.Option(
            help="Experiment metric that decides: ctr, cvr, gmv, orders_per_client, net_gmv or aov; 'none' gives none."
        ),
    ] = "cvr",
    mde: Annotated[float | None, typer.Option(help="Relative lift the experiment is sized for, such as 0.02.")] = None,
    looks: Annotated[int, typer.Option(help="Declared number of looks; several need --clients or --days.")] = 1,
    clients: Annotated[
        int | None, typer.Option(help="Analysed clients of all arms at which the last look is due.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Days after which the last look is due.")] = None,
    min_buyers: Annotated[
        int, typer.Option(help="Clients with an order that the smallest arm needs for a look.")
    ] = 100,
    alpha: Annotated[float, typer.Option(help="Two-sided error level.")] = 0.05,
    cuped: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="Adjust the primary metric by the days before each client's first exposure."),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(help="Share of the layer's clients that no experiment takes; by default that of the one before."),
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Currency of all sums of money.")] = None,
    from_history: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="Compute --clients for --mde from the clients of the last days."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create an experiment and start it; its plan cannot change later."""
    from abtest.plan import GOALS, Plan
    from abtest.store import ExperimentStore
    from abtest.tables import ANALYSED_LAYER
    from deploy.migrations.revision import open_database
    from stream.join.settings import JoinSettings

    if layer != ANALYSED_LAYER:
        raise ConfigError(f"--layer {layer}: the facts name experiments of layer '{ANALYSED_LAYER}' only")
    chosen = context(ctx)
    join, engine = chosen.settings.get("join", JoinSettings), open_database(chosen)
    members = [_arm(text, control) for text in arm]
    if from_history is not None:
        from abtest.planning import baseline, clients_needed

        if mde is None or clients is not None or days is not None:
            raise ConfigError("--from-history: expected --mde, and neither --clients nor --days")
        controls = [number for number, entry in enumerate(members) if entry.is_control]
        if not controls or (weight is not None and len(weight) != len(members)):
            raise ConfigError(f"--from-history: expected an arm '{control}', and one --weight for each arm or none")
        history = baseline(engine, primary, from_history, currency=currency)
        shares = weight or [1.0 / len(members)] * len(members)
        clients = clients_needed(history, mde, alpha=alpha, weights=shares, control=controls[0], looks=looks)
    plan = Plan(
        primary=None if primary == "none" else primary,
        goals=GOALS if primary in {*GOALS, "none"} else (*GOALS, primary),
        mde=mde,
        looks=looks,
        clients=clients,
        days=days,
        min_buyers=min_buyers,
        alpha=alpha,
        cuped_days=cuped,
        hold_out=hold_out,
        currency=currency,
        attribution_s=join.attribution_s,
        refund_s=join.refund_s,
    )
    made = ExperimentStore(engine).create(
        key=name,
        arms=members,
        now_ts=epoch_ms(),
        layer=layer,
        salt=salt,
        share=share,
        weights=weight,
        plan=plan,
    )
    document = {
        "experiment": made.experiment,
        "layer": made.layer,
        "salt": made.salt,
        "epoch": made.epoch,
        "arms": made.arms,
        "buckets": {entry.name: int((made.table == number).sum()) for number, entry in enumerate(made.arms)},
        "sha256": made.sha256,
        "clients": plan.clients,
    }
    if as_json:
        print_json(document)
    else:
        for number, entry in enumerate(made.arms):
            console.print(
                f"{entry.name}: {entry.lineage or entry.policy}, {int((made.table == number).sum())} of 10,000 buckets"
            )
        console.print(f"experiment {made.experiment} runs in layer {made.layer} (salt {made.salt})", highlight=False)
        if plan.clients is not None:
            console.print(f"the last look is due at {plan.clients} analysed clients", highlight=False)


def power(
    ctx: typer.Context,
    primary: Annotated[str, typer.Option(help="Experiment metric that decides.")] = "cvr",
    mde: Annotated[list[float] | None, typer.Option(help="Relative lift; 1, 2, 5 and 10 % by default.")] = None,
    days: Annotated[float, typer.Option(help="Days of history before the newest mature session.")] = 14.0,
    share: Annotated[float, typer.Option(help="Share of all clients that will take part.")] = 1.0,
    weight: Annotated[
        list[float] | None, typer.Option(help="Share of each arm, the control first; two equal arms by default.")
    ] = None,
    looks: Annotated[int, typer.Option(min=1, help="Equally spaced looks.")] = 1,
    alpha: Annotated[float, typer.Option(help="Two-sided error level.")] = 0.05,
    power_: Annotated[float, typer.Option("--power", help="Chance of finding the lift.")] = 0.8,
    currency: Annotated[str | None, typer.Option(help="Currency of all sums of money.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the clients and days by which an experiment finds a lift, from the clients of the last days."""
    from dataclasses import asdict

    from abtest.planning import baseline, clients_needed

    if not 0.0 < share <= 1.0:
        raise ConfigError(f"--share {share:g}: expected more than 0, at most 1")
    history = baseline(database(ctx), primary, days, currency=currency)
    rate = history.clients / history.days * share
    needed = {
        lift: clients_needed(history, lift, alpha=alpha, weights=weight or (0.5, 0.5), looks=looks, power=power_)
        for lift in mde or (0.01, 0.02, 0.05, 0.1)
    }
    if as_json:
        plans = [{"mde": lift, "clients": number, "days": number / rate} for lift, number in needed.items()]
        print_json({"history": asdict(history), "plans": plans})
        return
    title = f"{primary} {history.value:.4g} of {history.clients} clients in {history.days:g} days, power {power_:.0%}"
    rows = [(f"{lift:+.1%}", number, f"{number / rate:.1f}") for lift, number in needed.items()]
    print_table(title, ("lift", "clients of all arms", "days at the rate of the history"), rows)


def _arm(text: str, control: str) -> "Arm":
    from abtest.experiment import Arm

    name, separator, target = text.partition("=")
    if not separator or not target:
        raise ConfigError(f"--arm {text}: expected ARM=LINEAGE or ARM={POLICY}NAME")
    if target.startswith(POLICY):
        return Arm(name=name, policy=target.removeprefix(POLICY), is_control=name == control)
    return Arm(name=name, lineage=target, is_control=name == control)
