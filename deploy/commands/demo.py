"""`shelfwise demo`: the whole loop on one machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import Exit, JsonFlag, console, context, err_console, fail, print_json, print_table

if TYPE_CHECKING:
    from deploy.demo.summary import DemoSummary

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    ctx: typer.Context,
    hours: Annotated[float, typer.Option(help="Simulated hours with searches.")] = 3.0,
    rate: Annotated[float, typer.Option(help="Searches per simulated hour.")] = 1_500.0,
    conversion_boost: Annotated[
        float, typer.Option(help="Multiplies the share of lists with an order, so that a short run sees enough.")
    ] = 4.0,
    seed: int = 1,
    publish_s: Annotated[int, typer.Option(help="Event time between two versions of a lineage, in seconds.")] = 900,
    as_json: JsonFlag = False,
) -> None:
    """Start a broker, shoppers, joiner, two trainers and serving; end with lifts and the conservation of events."""
    import secrets
    import time

    from deploy import configuration
    from deploy.demo.interrupts import Interrupts
    from deploy.demo.run import Options, Tools
    from deploy.demo.run import run as run_demo

    loaded = context(ctx)
    interrupts = Interrupts()
    interrupts.install()
    started_s = time.monotonic()

    def say(line: str) -> None:
        err_console.print(
            f"[{time.monotonic() - started_s:6.1f} s] {line}", highlight=False, markup=False, soft_wrap=True
        )

    summary = run_demo(
        loaded,
        Options(
            hours=hours,
            rate=rate,
            conversion_boost=conversion_boost,
            seed=seed,
            publish_s=publish_s,
        ),
        Tools(
            monotonic_s=time.monotonic,
            jitter=lambda: secrets.randbelow(1_000) / 1_000,
            sleep=interrupts.sleep,
            say=say,
            environment=configuration.environment(),
            ignore_interrupts=interrupts.ignore,
        ),
    )
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    if not summary.conservation.closed:
        raise fail("the conservation of events does not close", Exit.HEALTH)


def _print(summary: "DemoSummary") -> None:
    kept = summary.conservation
    print_table(
        "conservation of events (records and order lines)",
        ("fate", "from counters", "recounted from topics"),
        [
            *((fate, kept.by_counters[fate], kept.by_recount[fate]) for fate in kept.by_counters),
            ("sum", sum(kept.by_counters.values()), sum(kept.by_recount.values())),
            ("produced", kept.produced, "closed" if kept.closed else "NOT CLOSED"),
        ],
    )
    print_table(
        "versions",
        ("lineage", "arm", "published", "swapped in by serving"),
        [(row.lineage, row.arm, row.published, row.served) for row in summary.versions],
    )
    print_table(
        f"experiment {summary.experiment}: treatment against control",
        ("metric", "improvement", "95 % interval", "p-value"),
        [
            (row.metric.upper(), _percent(row.lift), f"{_percent(row.lo)} to {_percent(row.hi)}", _p(row.p))
            for row in summary.lifts
        ],
    )
    console.print(
        f"{summary.searches} searches, {summary.sessions_in_sql} sessions in SQL, "
        f"{summary.seconds['total']:.0f} s; report: {summary.report_html}",
        soft_wrap=True,
    )
    console.print(
        "next: open the report in a browser; `shelfwise abtest --help` for experiments of your own; "
        "`shelfwise stream produce --help` to join events of your own",
        soft_wrap=True,
        markup=False,
    )


def _percent(share: float | None) -> str:
    return "undefined" if share is None else f"{100 * share:+.2f} %"


def _p(p: float | None) -> str:
    return "undefined" if p is None else f"{p:.3f}"
