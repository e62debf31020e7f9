"""`shelfwise rollout policy`: the values by which the versions of a lineage move."""

from typing import Annotated

import typer

from deploy.commands.arguments import UserOption
from deploy.commands.lineage_command import BY_HAND, LineageArgument, RequestOption, WhyOption, act, store_of
from deploy.commands.output import JsonFlag, assignments, print_json, print_table


def show(ctx: typer.Context, lineage: LineageArgument, as_json: JsonFlag = False) -> None:
    """Print the values of the policy; those that differ from the defaults are marked."""
    from dataclasses import asdict

    from stream.setting_fields import descriptions
    from trainer.rollout import policy

    stored = store_of(ctx).view(lineage).policy
    values = asdict(policy.of(stored))
    if as_json:
        print_json(values)
        return
    described = descriptions(policy.Policy)
    rows = [(key, value, "set" if key in stored else "default", described[key]) for key, value in values.items()]
    print_table(f"policy of {lineage}", ("key", "value", "origin", "description"), rows)


def set_values(
    ctx: typer.Context,
    lineage: LineageArgument,
    values: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Values to set.")],
    why: WhyOption = BY_HAND,
    user: UserOption = None,
    request_id: RequestOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set values of the policy."""
    from trainer.rollout import changes

    given = assignments(values, "policy set", prefix="policy.")
    chosen = {key.removeprefix("policy."): value for key, value in given.items()}
    act(store_of(ctx), lineage, "policy", lambda view: changes.set_policy(view, chosen, why), user, request_id, as_json)
