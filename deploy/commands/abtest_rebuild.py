"""`shelfwise abtest rebuild`: the stored sums of an experiment, against its facts."""

import typer

from deploy.commands.arguments import ExperimentArgument
from deploy.commands.output import Exit, JsonFlag, console, database, print_json


def rebuild(
    ctx: typer.Context,
    name: ExperimentArgument,
    as_json: JsonFlag = False,
) -> None:
    """Compare the stored sums of an experiment with its facts and mend them; exit code 3 if they differed.

    The sink goes on meanwhile.
    """
    import time

    from abtest.rebuild import rebuild as compute

    found = compute(database(ctx), name, pause=time.sleep)
    if as_json:
        print_json(found)
    else:
        for cut in found:
            kept = "none were stored"
            if cut.differing is not None:
                kept = f"{cut.differing} stored sums differ, by {cut.largest} at most"
            other = "" if cut.is_of_plan else "; they were of another currency or other epochs"
            console.print(f"{cut.cut}: {cut.clients} clients; {kept}{other}", highlight=False, soft_wrap=True)
        if not found:
            console.print("no session is mature", highlight=False)
    if not all(cut.is_equal for cut in found):
        raise typer.Exit(Exit.HEALTH)
