"""Commands of a user on one lineage: their common arguments and options, and their execution."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.arguments import named_user
from deploy.commands.output import console, database, print_json
from deploy.commands.rollout_output import sentence

if TYPE_CHECKING:
    from trainer.rollout.changes import Change
    from trainer.rollout.states import LineageView
    from trainer.rollout.store import RolloutStore

LineageArgument = Annotated[str, typer.Argument(help="Name of the lineage.")]
RequestOption = Annotated[
    str | None, typer.Option("--request-id", help="Id of the request: a repeat with the same id changes nothing.")
]
WhyOption = Annotated[str, typer.Option("--why", help="Reason, for the event.")]
BY_HAND = "by hand"
"""Reason of a command that gives none."""


def store_of(ctx: typer.Context) -> "RolloutStore":
    """Return the store of the rollout in the configured database."""
    from trainer.rollout.store import RolloutStore

    return RolloutStore(database(ctx))


def act(
    store: "RolloutStore",
    lineage: str,
    name: str,
    decide: "Callable[[LineageView], Change]",
    user: str | None,
    request_id: str | None,
    as_json: bool,
    evidence: dict[str, object] | None = None,
) -> None:
    """Execute a command of a user and print its event."""
    from stream.wall_clock import epoch_ms

    event = store.command(
        lineage,
        name,
        decide,
        user=named_user(user),
        request_id=request_id,
        now_ms=epoch_ms(),
        evidence=evidence,
    )
    if as_json:
        print_json(event)
    else:
        console.print(sentence(event), highlight=False, soft_wrap=True)
