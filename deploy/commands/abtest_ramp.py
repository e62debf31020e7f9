"""Ramps of experiments, `shelfwise abtest ramp` and `ramps`: a larger share of clients, by hand or by a plan."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.arguments import ExperimentArgument, UserOption, named_user
from deploy.commands.output import Exit, JsonFlag, console, database, print_json
from deploy.commands.times import parse_duration
from stream.errors import ConfigError
from stream.wall_clock import epoch_ms

if TYPE_CHECKING:
    from sqlalchemy import Engine


def ramp(
    ctx: typer.Context,
    name: ExperimentArgument,
    share: Annotated[
        float | None, typer.Option(help="Share of all clients; by default the next of 1, 5, 10, 25, 50 and 100 %.")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Plan a ramp: the controller takes a step when this time has passed."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="SHARES", help="Shares of the planned ramp, such as 0.01,0.05,0.1; by default the usual."),
    ] = None,
    end_plan: Annotated[bool, typer.Option("--end-plan", help="End the planned ramp; the share stays.")] = False,
    shrink: Annotated[bool, typer.Option("--shrink", help="Allow a smaller share: clients leave.")] = False,
    why: Annotated[str, typer.Option(help="Reason, for the epoch and the event.")] = "ramp",
    user: UserOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set the share of clients that take part, in a new epoch, or plan a ramp that the controller carries out.

    A larger share is refused while a health check is blocked.
    """
    from abtest.ramp import ramp as change
    from abtest.ramp_plan import STEPS, RampPlan
    from abtest.ramp_store import RampStore

    if sum((every is not None, end_plan, share is not None)) > 1:
        raise ConfigError("--share, --every and --end-plan: expected one of them")
    if steps is not None and every is None:
        raise ConfigError("--steps: expected --every as well, the time that each step lasts")
    engine, actor = database(ctx), named_user(user)
    if end_plan:
        is_ended = RampStore(engine).end(name, now_ts=epoch_ms(), actor=actor, reason=why)
        said = "the planned ramp has ended" if is_ended else "no ramp is planned"
        if as_json:
            print_json({"experiment": name, "ended": is_ended})
        else:
            console.print(f"experiment {name}: {said}", highlight=False)
        return
    if every is not None:
        plan = RampPlan(steps=STEPS if steps is None else _shares(steps), every_ms=parse_duration(every, "--every"))
        RampStore(engine).plan(name, plan, now_ts=epoch_ms(), actor=actor, reason=why)
        _show(engine, name, as_json=as_json)
        return
    opened = change(engine, name, share, now_ts=epoch_ms(), reason=why, actor=actor, shrink=shrink)
    if as_json:
        print_json(opened)
    else:
        console.print(f"experiment {name}: epoch {opened.number}, {opened.coverage:g} of all clients", highlight=False)


def ramps(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Print the planned ramps: share, next step and its time, the share left out. Exit code 3 if one is frozen."""
    if _show(database(ctx), None, as_json=as_json):
        raise typer.Exit(Exit.HEALTH)


def _show(engine: "Engine", name: str | None, *, as_json: bool) -> bool:
    """Print the planned ramps, or that of one experiment, and return whether one is frozen."""
    from deploy.commands.rollout_output import ramp_line
    from trainer.rollout.ramps import status
    from trainer.rollout.store import RolloutStore

    found = [each for each in status(engine, RolloutStore(engine), epoch_ms()) if name in {None, each.experiment}]
    if as_json:
        print_json(found if name is None else found[0])
    for each in () if as_json else found:
        console.print(ramp_line(each), highlight=False, soft_wrap=True)
    if not found and not as_json:
        console.print("no ramp is planned", highlight=False)
    return any(each.held for each in found)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--steps {text}: expected shares such as 0.01,0.05,0.1") from error
