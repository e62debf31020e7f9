"""`shelfwise abtest`: create experiments, write their facts, report on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands import abtest_analyze, abtest_ramp, abtest_rebuild, abtest_services
from deploy.commands.output import Exit, JsonFlag, console, context, fail, print_json, print_table
from stream.errors import ConfigError
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from abtest.experiment import Arm, Experiment
    from abtest.results import Report
    from deploy.configuration import Context

app = typer.Typer(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the experiment.")]
LayerOption = Annotated[str, typer.Option("--layer", help="Layer of the experiment.")]
_POLICY = "policy:"


@app.command()
def create(
    ctx: typer.Context,
    name: NameArgument,
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
    from stream.join.settings import JoinSettings

    if layer != ANALYSED_LAYER:
        raise ConfigError(f"--layer {layer}: the facts name experiments of layer '{ANALYSED_LAYER}' only")
    chosen = context(ctx)
    join, engine = chosen.settings.get("join", JoinSettings), _engine(chosen)
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


@app.command()
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
    history = baseline(_engine(context(ctx)), primary, days, currency=currency)
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


@app.command("list")
def list_experiments(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print all experiments."""
    from abtest.store import ExperimentStore

    found = ExperimentStore(_engine(context(ctx))).list()
    if as_json:
        print_json(found)
    else:
        print_table("experiments", ("name", "layer", "status", "arms", "primary", "decision"), [_row(e) for e in found])


@app.command()
def assign(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(help="Client id.")],
    layer: LayerOption = "ranker",
    as_json: JsonFlag = False,
) -> None:
    """Print the bucket and the arm of a client, by the id under which the shop knows it."""
    from abtest.store import ExperimentStore
    from stream.query_hash_key import PrivacySettings
    from stream.schemas.identity import client_hash

    called = context(ctx)
    active = ExperimentStore(_engine(called)).active(layer)
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


@app.command()
def stop(
    ctx: typer.Context,
    name: NameArgument,
    decision: Annotated[str | None, typer.Option(help="Text of the decision, stored with the experiment.")] = None,
) -> None:
    """Stop an experiment; its facts and results stay."""
    from abtest.store import ExperimentStore

    ExperimentStore(_engine(context(ctx))).stop(name, now_ts=epoch_ms(), decision=decision)
    console.print(f"experiment {name} is stopped", highlight=False)


@app.command()
def report(
    ctx: typer.Context,
    name: NameArgument,
    html: Annotated[Path | None, typer.Option(help="File for one self-contained HTML page.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for Markdown.")] = None,
    partial: Annotated[
        bool | None,
        typer.Option("--partial/--mature", help="Include sessions with open attribution windows, or never."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the verdict so far and lifts for monitoring; it takes no look. Exit code 3 if a health check is blocked."""
    from abtest import render
    from abtest.page import page_html
    from abtest.report import report as compute

    found = compute(_engine(context(ctx)), name, partial=partial)
    for path, text in ((html, page_html), (markdown, render.report_markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(found))
    _print_report(found, as_json=as_json)
    if not as_json:
        for path in (html, markdown):
            if path is not None:
                console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if found.blocked:
        raise typer.Exit(Exit.HEALTH)


@app.command()
def decide(ctx: typer.Context, name: NameArgument, as_json: JsonFlag = False) -> None:
    """Take a look, which spends a part of alpha, and print the verdict; exit code 3 if a health check is blocked.

    A look needs mature sessions and enough buyers. After the last look the verdict never changes.
    """
    from abtest.report import decide as look

    found = look(_engine(context(ctx)), name)
    _print_report(found, as_json=as_json)
    if found.blocked:
        raise typer.Exit(Exit.HEALTH)


def _print_report(found: "Report", *, as_json: bool) -> None:
    from abtest import render

    if as_json:
        print_json(found)
        return
    console.print(f"{found.experiment}: {render.verdict_line(found)}", highlight=False, soft_wrap=True)
    console.print(found.verdict_reason, highlight=False, soft_wrap=True)
    if found.looks:
        print_table("looks", render.LOOK_COLUMNS, render.look_rows(found))
    print_table("lifts, for monitoring", render.table_columns(found), render.table_rows(found))
    if found.adjusted:
        print_table("lifts by CUPED", render.ADJUSTED_COLUMNS, render.adjusted_rows(found))
    for check in found.checks:
        console.print(f"{check.check_name}: {check.status}; {check.detail}", highlight=False, soft_wrap=True)
    for caveat in found.caveats:
        console.print(f"- {caveat}", highlight=False, soft_wrap=True)


@app.command()
def erase(
    ctx: typer.Context,
    client: Annotated[
        str, typer.Argument(metavar="CLIENT", help="Client as the facts name it: its hash, where ids are hashed.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Remove all facts, orders and exposures of one client; results keep their sums."""
    from abtest.erasure import erase as remove

    found = remove(_engine(context(ctx)), client)
    if as_json:
        print_json(found)
        return
    console.print(
        f"removed: {found.sessions} sessions, {found.orders} orders, {found.lines} lines without a session, "
        f"{found.exposures} exposures",
        highlight=False,
    )


@app.command()
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
                "-" if entry.coverage is None else f"{entry.coverage:.2%}",
                "-" if entry.forecast is None else f"{entry.forecast:.2%}",
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


def _arm(text: str, control: str) -> "Arm":
    from abtest.experiment import Arm

    name, separator, target = text.partition("=")
    if not separator or not target:
        raise ConfigError(f"--arm {text}: expected ARM=LINEAGE or ARM={_POLICY}NAME")
    if target.startswith(_POLICY):
        return Arm(name=name, policy=target.removeprefix(_POLICY), is_control=name == control)
    return Arm(name=name, lineage=target, is_control=name == control)


def _row(found: "Experiment") -> tuple[object, ...]:
    arms = ", ".join(f"{arm.name}={arm.lineage or _POLICY + str(arm.policy)}" for arm in found.arms)
    return found.key, found.layer, found.status, arms, found.plan.primary or "none", found.decision or ""


def _engine(chosen: "Context") -> "Engine":
    from deploy.migrations.revision import open_database

    return open_database(chosen)


for _command in (abtest_analyze.analyze, abtest_ramp.ramp, abtest_ramp.ramps, abtest_rebuild.rebuild):
    app.command()(_command)
app.command()(abtest_services.sink)
app.command()(abtest_services.watch)
