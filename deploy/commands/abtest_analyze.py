"""The command `shelfwise abtest analyze`: an experiment from a file, without the rest of the system."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import Exit, JsonFlag, console, print_json, print_table

if TYPE_CHECKING:
    from abtest.frames import FrameAnalysis, FrameResult
    from abtest.inference import Lift


def analyze(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet or CSV file of clients, sessions or events.")],
    plan: Annotated[Path, typer.Option(help="TOML file that names columns, arms and metrics.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare the arms of a file with its control, once, at the end. Exit code 3 if the sample ratio is off.

    Rows are added up by client. No database and no broker is needed.
    """
    from abtest import frames

    found = frames.analyze(frames.scan(data), frames.read_plan(plan))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if found.ratio is not None and found.ratio.status == "blocked":
        raise typer.Exit(Exit.HEALTH)


def _print(found: "FrameAnalysis") -> None:
    level = f"{100.0 * (1.0 - found.alpha):.4g} % interval"
    adjusted = "p (Holm)" if found.adjustment == "holm" else "p (Benjamini-Hochberg)"
    columns = ("metric", "arm", "lift", level, "p", adjusted, found.control, "arm's value")
    print_table(f"lifts against {found.control}", columns, [_row(result) for result in found.results])
    sequences = [result for result in found.results if result.lift.cs_kind is not None]
    if sequences:
        titles = ("metric", "arm", "confidence sequence", "p (always valid)")
        print_table("at any number of looks", titles, [_sequence(result) for result in sequences])
    by_cuped = [result for result in found.results if result.plain is not None]
    if by_cuped:
        names = ("metric", "arm", "variance by CUPED", "lift without", level, "p")
        print_table("without CUPED", names, [_without(result) for result in by_cuped])
    counted = ", ".join(f"{arm} {clients}" for arm, clients in found.clients.items())
    console.print(f"clients: {counted}; {found.left_out} in several arms or in none are left out", highlight=False)
    if found.strata:
        shown = ", ".join(f"{stratum} {weight:.2%}" for stratum, weight in found.strata.items())
        console.print(f"weights of the strata: {shown}", highlight=False)
    if found.rows_without_client:
        console.print(f"{found.rows_without_client} rows without a client are left out", highlight=False)
    if found.ratio is not None:
        p = "" if found.ratio.p is None else f", p {found.ratio.p:.3g}"
        reason = f" ({found.ratio.reason})" if found.ratio.reason else ""
        console.print(f"sample ratio: {found.ratio.status}{p}{reason}", highlight=False)


def _row(result: "FrameResult") -> tuple[str | None, ...]:
    from abtest import render

    lift, interval, p = _lift(result.lift)
    return (
        result.metric,
        result.arm,
        lift,
        interval,
        p,
        render.p_value(result.p_adj),
        None if result.control_value is None else f"{result.control_value:.6g}",
        None if result.value is None else f"{result.value:.6g}",
    )


def _sequence(result: "FrameResult") -> tuple[str, ...]:
    from abtest import render

    lift = result.lift
    bounds = render.interval(lift.cs_lo, lift.cs_hi, lift.cs_kind)
    return result.metric, result.arm, bounds, render.p_value(lift.cs_p)


def _without(result: "FrameResult") -> tuple[str | None, ...]:
    plain = (None,) * 3 if result.plain is None else _lift(result.plain)
    return (result.metric, result.arm, f"{result.variance_ratio or 0.0:.1%}", *plain)


def _lift(lift: "Lift") -> tuple[str, str, str]:
    from abtest import render

    return (
        f"undefined ({render.reason(lift.reason)})" if lift.lift is None else f"{lift.lift:+.2%}",
        render.interval(lift.lo, lift.hi, lift.set_kind),
        render.p_value(lift.p_fixed),
    )
