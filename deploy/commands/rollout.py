"""`shelfwise rollout`: what serves and why, and commands that move versions."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.commands import rollout_controller, rollout_policy
from deploy.commands.arguments import UserOption
from deploy.commands.lineage_command import BY_HAND, LineageArgument, RequestOption, WhyOption, act, store_of
from deploy.commands.output import (
    Exit,
    JsonFlag,
    console,
    database,
    fail,
    print_json,
    print_table,
)
from deploy.commands.rollout_output import print_statuses
from deploy.commands.times import TIME_HELP, iso_time, parse_time
from deploy.stop_event import stop_event
from stream.errors import ConfigError
from stream.schemas.names import check_reason

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from trainer.rollout.changes import Change, RewindMode
    from trainer.rollout.states import LineageView, Verdict

app = typer.Typer(no_args_is_help=True)
policy_app = typer.Typer(no_args_is_help=True)
app.add_typer(policy_app, name="policy", help="Show and set the policy of a lineage.")

TrainerOption = Annotated[
    str | None,
    typer.Option("--trainer", help="What the trainer does with the range in between: wait, replay or skip."),
]
_WATCH_S = 2.0


@app.command("status")
def status_command(
    ctx: typer.Context,
    lineage: Annotated[str | None, typer.Argument(help="Name of the lineage; all by default.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print again every two seconds until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print what serves, each gate with its numbers, and what comes next.

    The exit code is 4 if a gate failed, and 3 if one waits for evidence.
    """
    from stream.wall_clock import epoch_ms
    from trainer.rollout.status import status
    from trainer.rollout.store import RolloutStore

    engine = database(ctx)
    store = RolloutStore(engine)
    stopping = stop_event(ctx) if watch else None
    while True:
        names = store.names() if lineage is None else [lineage]
        found = [status(store, engine, name, epoch_ms()) for name in names]
        if as_json:
            print_json(found if lineage is None else found[0])
        else:
            print_statuses(found)
        if stopping is None or stopping.wait(_WATCH_S):
            break
    if any(each.failed for each in found):
        raise typer.Exit(Exit.GUARDRAIL)
    if any(each.waits_for for each in found):
        raise typer.Exit(Exit.HEALTH)


@app.command()
def history(
    ctx: typer.Context,
    lineage: LineageArgument,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=f"Only events until then: {TIME_HELP}")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the events of a lineage, the oldest first, and what served after them."""
    from trainer.rollout.status import serving_at

    events = store_of(ctx).history(lineage, parse_time(at, "--at"))
    serving = serving_at(events)
    if as_json:
        print_json({"lineage": lineage, **serving, "events": events})
        return
    columns = ("time", "version", "from", "to", "actor", "why")
    rows = [(iso_time(e.event_ts), e.version, e.from_status, e.to_status, e.actor, e.why) for e in events]
    print_table(f"events of {lineage}", columns, rows)
    shown = {name: ", ".join(map(str, numbers)) or "none" for name, numbers in serving.items()}
    console.print(f"live: {shown['live']}; canary: {shown['canary']}", highlight=False)


@app.command()
def promote(
    ctx: typer.Context,
    lineage: LineageArgument,
    version: Annotated[
        int | None, typer.Argument(help="Number; by default the canary, else the newest verified one.")
    ] = None,
    override: Annotated[
        str | None, typer.Option("--override", metavar="REASON", help="Promote without the gates, for this reason.")
    ] = None,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a version live.

    In a gated lineage its gates count: the exit code is 4 if one failed, and 3 if one waits for evidence.
    """
    from stream.errors import StoreError
    from stream.wall_clock import epoch_ms
    from trainer.rollout import changes
    from trainer.rollout.controller import as_evidence
    from trainer.rollout.store import RolloutStore

    if override is not None:
        check_reason("--override", override)
    engine = database(ctx)
    store = RolloutStore(engine)
    seen = store.view(lineage)
    # A repeated command changes nothing, so the gates have no say in it.
    is_repeated = request_id is not None and store.is_executed(request_id)
    chosen, verdicts = (version, {}) if is_repeated else _verdicts_of(engine, seen, version, epoch_ms())
    for outcome, code in (("fail", Exit.GUARDRAIL), ("wait", Exit.HEALTH)):
        reasons = [f"{gate}: {verdict.reason}" for gate, verdict in verdicts.items() if verdict.outcome == outcome]
        if reasons and override is None:
            state = "failed" if outcome == "fail" else "has no sufficient evidence for"
            raise fail(f"version {chosen} {state} {'; '.join(reasons)}; --override REASON promotes it anyway", code)

    def decide(view: "LineageView") -> "Change":
        if verdicts and view != seen:
            raise StoreError(f"lineage {lineage} was changed while its gates were judged; try again")
        return changes.promote(view, chosen, override if override is not None else BY_HAND)

    act(store, lineage, "promote", decide, user, request_id, as_json, as_evidence(verdicts))


@app.command()
def abort(
    ctx: typer.Context,
    lineage: LineageArgument,
    trainer: Annotated[
        str,
        typer.Option(
            help="keep lets it go on; wait, replay or skip call the version bad, and take it back to the live one."
        ),
    ] = "keep",
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """End the canary; its clients get the live version."""
    from trainer.rollout import changes

    mode: RewindMode | Literal["keep"] = "keep" if trainer == "keep" else _mode(trainer, "keep, ")
    store = store_of(ctx)
    seen = store.view(lineage)

    def decide(view: "LineageView") -> "Change":
        _check_still(view, seen, "canary")
        return changes.abort(view, mode, why)

    act(store, lineage, "abort", decide, user, request_id, as_json)


@app.command()
def rollback(
    ctx: typer.Context,
    lineage: LineageArgument,
    to: Annotated[int | None, typer.Option(help="Version to go back to; by default the one live before.")] = None,
    trainer: TrainerOption = None,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take the live version back, quarantine what was trained from it, stop its trainer and freeze the lineage."""
    from trainer.rollout import changes, policy

    given = None if trainer is None else _mode(trainer)
    store = store_of(ctx)
    seen = store.view(lineage)

    def decide(view: "LineageView") -> "Change":
        _check_still(view, seen, "live")
        return changes.rollback(view, to, given or policy.of(view.policy).on_rollback, why)

    act(store, lineage, "rollback", decide, user, request_id, as_json)


@app.command()
def rewind(
    ctx: typer.Context,
    lineage: LineageArgument,
    mode: Annotated[str, typer.Argument(help="wait, replay or skip.")],
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set what the trainer does with the range since the version that a rollback takes it back to."""
    from trainer.rollout import changes

    given = _mode(mode, option="mode")
    store = store_of(ctx)
    act(store, lineage, "rewind", lambda view: changes.rewind(view, given, why), user, request_id, as_json)


@app.command()
def pin(
    ctx: typer.Context,
    lineage: LineageArgument,
    version: Annotated[int | None, typer.Argument(help="Number; the live one by default.")] = None,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep a version live until `unpin`, and end the canary."""
    from trainer.rollout import changes

    store = store_of(ctx)
    act(store, lineage, "pin", lambda view: changes.pin(view, version, why), user, request_id, as_json)


@app.command()
def unpin(
    ctx: typer.Context,
    lineage: LineageArgument,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove the pin."""
    from trainer.rollout import changes

    store = store_of(ctx)
    act(store, lineage, "unpin", lambda view: changes.unpin(view, why), user, request_id, as_json)


@app.command()
def freeze(
    ctx: typer.Context,
    lineage: LineageArgument,
    reason: Annotated[str, typer.Argument(help="Reason, for the status and the event.")],
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop all moves until `resume`, and end the canary; the live version stays."""
    from trainer.rollout import changes

    store = store_of(ctx)
    act(store, lineage, "freeze", lambda view: changes.freeze(view, reason), user, request_id, as_json)


@app.command()
def resume(
    ctx: typer.Context,
    lineage: LineageArgument,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Release a lineage that is frozen or killed; a trainer that waits learns the range again."""
    from trainer.rollout import changes

    store = store_of(ctx)
    act(store, lineage, "resume", lambda view: changes.resume(view, why), user, request_id, as_json)


@app.command()
def kill(
    ctx: typer.Context,
    lineage: LineageArgument,
    reason: Annotated[str, typer.Argument(help="Reason, for the status and the event.")],
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give the lineage's clients the incoming order until `resume`."""
    from trainer.rollout import changes

    store = store_of(ctx)
    act(store, lineage, "kill", lambda view: changes.kill(view, reason), user, request_id, as_json)


def _verdicts_of(
    engine: "Engine", view: "LineageView", number: int | None, now_ms: int
) -> "tuple[int | None, dict[str, Verdict]]":
    """Return the version that `promote` chooses, and the verdicts of the gates that it has to pass."""
    from trainer.rollout import evidence, policy
    from trainer.rollout.judgement import before_canary, judge
    from trainer.rollout.states import may_move

    values = policy.of(view.policy)
    newest = view.only("canary") or view.only("verified")
    chosen = view.get(number) if number is not None else newest
    # The command itself names what is wrong with a lineage that is locked, or a version that may not go live.
    if values.mode == "direct" or view.lock is not None or chosen is None or chosen.live_since is not None:
        return number, {}
    if not may_move(chosen.status, "live", "user"):
        return number, {}
    found = evidence.read(engine, view, values, now_ms)
    if chosen.status == "canary":
        return chosen.number, dict(judge(view, found, values)[chosen.number])
    return chosen.number, before_canary(view, chosen, found, values)


def _check_still(view: "LineageView", seen: "LineageView", status: "Literal['live', 'canary']") -> None:
    """Refuse a command that would hit another version than the one that it began with.

    Of two rollbacks at once, the second one would take back the version that the first one has made live.
    """
    was, now = seen.only(status), view.only(status)
    if (was and was.number) != (now and now.number):
        from stream.errors import StoreError

        names = [f"version {each.number}" if each is not None else "none" for each in (was, now)]
        raise StoreError(f"lineage {view.name}: {names[0]} was {status}, now {names[1]} is; nothing was changed")


def _mode(text: str, more: str = "", option: str = "--trainer") -> "RewindMode":
    from trainer.rollout.changes import REWIND_MODES

    for mode in REWIND_MODES:
        if text == mode:
            return mode
    raise ConfigError(f"{option} {text}: expected {more}{', '.join(REWIND_MODES[:-1])} or {REWIND_MODES[-1]}")


policy_app.command("show")(rollout_policy.show)
policy_app.command("set")(rollout_policy.set_values)
app.command()(rollout_controller.run)
