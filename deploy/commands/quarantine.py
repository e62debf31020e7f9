"""`shelfwise trainer quarantine`: ranges of the log that breakers kept from being learned."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.arguments import UserOption
from deploy.commands.lineage_command import BY_HAND, LineageArgument, RequestOption, WhyOption, act
from deploy.commands.output import JsonFlag, console, context, database, print_json, print_table
from deploy.commands.times import iso_time

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from trainer.quarantine.ranges import QuarantinedRange, RangeStatus
    from trainer.rollout.changes import Change
    from trainer.rollout.states import LineageView

app = typer.Typer(no_args_is_help=True)

RangeArgument = Annotated[int, typer.Argument(metavar="RANGE", help="Number of the range.")]


@app.command("list")
def list_ranges(ctx: typer.Context, lineage: LineageArgument, as_json: JsonFlag = False) -> None:
    """Print the ranges of a lineage, the oldest first, with what the breakers measured."""
    from trainer.quarantine.store import Quarantine
    from trainer.rollout.store import RolloutStore

    engine = database(ctx)
    # A name that no lineage has is an error, not an empty list.
    RolloutStore(engine).view(lineage)
    found = Quarantine(engine).ranges(lineage)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.number,
            each.status,
            None if each.range.from_ts is None else iso_time(each.range.from_ts),
            iso_time(each.range.until_ts),
            each.range.num_sessions,
            _offsets(each),
            "; ".join(map(_reason, each.range.reasons, [each] * len(each.range.reasons))),
        )
        for each in found
    ]
    print_table(
        f"quarantine of {lineage}", ("range", "status", "from", "until", "sessions", "offsets", "breakers"), rows
    )
    if (last := next((each for each in found if each.is_open), None)) is not None:
        reasons = ", ".join(last.range.reasons)
        console.print(f"open since range {last.number}: {reasons}; nothing is learned or published", soft_wrap=True)


@app.command()
def drop(
    ctx: typer.Context,
    lineage: LineageArgument,
    number: RangeArgument,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Discard a range for good: it is never learned."""
    _decide(database(ctx), lineage, number, "dropped", ("quarantine drop", why, user, request_id, as_json))


@app.command()
def train(
    ctx: typer.Context,
    lineage: LineageArgument,
    number: RangeArgument,
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a range back: the trainer learns it at its next boundary, and closes the breakers that left it out."""
    from deploy.kafka.choice import configured
    from stream.broker.offsets import beginning_offsets
    from stream.schemas import topics
    from trainer.feed.past_records import check_retained

    broker = configured(context(ctx))

    def check(chosen: "QuarantinedRange") -> None:
        beginnings = {
            partition: offset for (_, partition), offset in beginning_offsets(broker, [topics.SESSIONS]).items()
        }
        first = {int(partition): offset for partition, (offset, _) in chosen.range.from_cursors.items()}
        check_retained(beginnings, first, {int(p): offset for p, offset in chosen.range.until_offsets.items()})

    given = ("quarantine train", why, user, request_id, as_json)
    _decide(database(ctx), lineage, number, "released", given, check)


def _decide(
    engine: "Engine",
    lineage: str,
    number: int,
    to: "RangeStatus",
    given: tuple[str, str, str | None, str | None, bool],
    check: Callable[["QuarantinedRange"], None] = lambda _: None,
) -> None:
    from trainer.quarantine.ranges import decided
    from trainer.quarantine.store import Quarantine
    from trainer.rollout import changes
    from trainer.rollout.store import RolloutStore

    name, why, user, request_id, as_json = given
    ranges = {each.number: each for each in Quarantine(engine).ranges(lineage)}

    if number in ranges and ranges[number].status == "quarantined":
        # Before the transaction, which other writers wait for.
        check(ranges[number])

    def decide(_view: "LineageView") -> "Change":
        return changes.decide_range(decided(lineage, ranges, number), to, why)

    act(RolloutStore(engine), lineage, name, decide, user, request_id, as_json)


def _offsets(each: "QuarantinedRange") -> str:
    """Return the offsets of a range by partition, as in `0: 5-9`; partitions without a record are left out."""
    ends = each.range.until_offsets
    return ", ".join(
        f"{partition}: {first}-{ends[partition] - 1}"
        for partition, (first, _) in each.range.from_cursors.items()
        if ends[partition] > first
    )


def _reason(name: str, each: "QuarantinedRange") -> str:
    numbers = each.range.numbers.get(name)
    if numbers is None:
        return name
    value, expected = numbers["value"], numbers["expected"]
    if value is None:
        return f"{name} not finite"
    return f"{name} {value:.4g}" + ("" if expected is None else f", expected {expected:.4g}")
