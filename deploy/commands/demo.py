"""`shelfwise demo`: the loop on one machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import Exit, JsonFlag, console, context, err_console, fail, print_json, print_table

if TYPE_CHECKING:
    from deploy.demo.summary import DemoSummary, FreshnessSummary, Truth

app = typer.Typer(no_args_is_help=True)
_HOURS = 3.0
# From a first version to its lists, the drill, and a version of the recovered learner.
_DRILL_HOURS = 5.0


@app.command()
def run(
    ctx: typer.Context,
    hours: Annotated[
        float | None, typer.Option(help=f"Simulated hours with searches; {_HOURS:g}, with a drill {_DRILL_HOURS:g}.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Searches per simulated hour.")] = 1_500.0,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 1,
    publish_s: Annotated[int, typer.Option(help="Seconds of event time between two versions of a lineage.")] = 900,
    lineages: Annotated[
        str,
        typer.Option(help="Models that learn, by commas, each in an arm of its own: armmt, prm, din, mlp and others."),
    ] = "armmt",
    drill: Annotated[
        bool,
        typer.Option(
            help="Let one version learn flipped labels, for the gates to refuse and the trainer to recover from."
        ),
    ] = False,
    teachers: Annotated[
        str | None,
        typer.Option(
            help="Item types, by commas, whose rankers learn first and teach smar: product, sponsored, video, card."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a broker, shoppers, join worker, trainers, sink and serving; print outcomes of events, lifts and the truth.

    A shuffled arm is the control, another keeps the incoming order, and a learned one improves while the traffic flows.
    """
    import secrets
    import time

    from deploy import configuration
    from deploy.demo.run import Dependencies, Options
    from deploy.demo.run import run as run_demo
    from deploy.demo.signals import EndSignals
    from stream.wall_clock import epoch_ms

    loaded = context(ctx)
    signals = EndSignals()
    signals.install()
    started_s = time.monotonic()

    def report(line: str) -> None:
        err_console.print(f"[{time.monotonic() - started_s:6.1f} s] {line}", highlight=False, soft_wrap=True)

    summary = run_demo(
        loaded,
        Options(
            hours=hours if hours is not None else _DRILL_HOURS if drill else _HOURS,
            rate=rate,
            seed=seed,
            publish_s=publish_s,
            lineages=_names(lineages),
            drill=drill,
            teachers=_names(teachers or ""),
        ),
        Dependencies(
            monotonic_s=time.monotonic,
            now_ms=epoch_ms,
            jitter=lambda: secrets.randbelow(1_000) / 1_000,
            sleep=signals.sleep,
            report=report,
            environment=configuration.environment(),
            ignore_interrupts=signals.ignore,
        ),
    )
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    if not summary.conservation.closed:
        raise fail("the conservation of events does not close", Exit.HEALTH)


def _freshness(found: "FreshnessSummary | None") -> tuple[str, str] | tuple[None, None]:
    return (None, None) if found is None else (f"{found.p50_s:.1f} s", f"{found.p95_s:.1f} s")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _print(summary: "DemoSummary") -> None:
    kept = summary.conservation
    print_table(
        "conservation of events (records and order lines)",
        ("outcome", "from counters", "recounted from topics"),
        [
            *((name, kept.by_counters[name], kept.by_recount[name]) for name in kept.by_counters),
            ("sum", sum(kept.by_counters.values()), sum(kept.by_recount.values())),
            ("produced", kept.produced, "closed" if kept.closed else "NOT CLOSED"),
        ],
    )
    print_table(
        "versions",
        ("lineage", "arm", "published", "swapped in by serving", "mature session to version, p50", "p95"),
        [(row.lineage, row.arm, row.published, row.served, *_freshness(row.freshness)) for row in summary.versions],
    )
    print_table(
        f"experiment {summary.experiment}: estimated improvement on the shuffled control",
        ("arm", "metric", "improvement", "95 % interval", "p-value"),
        [
            (
                row.arm,
                row.metric.upper(),
                _percent(row.lift),
                f"{_percent(row.lo)} to {_percent(row.hi)}",
                _p(row.p),
            )
            for row in summary.lifts
        ],
    )
    _print_truth(summary.truth)
    if summary.drill is not None:
        from deploy.demo.drill_story import sentence

        console.print(f"drill: {sentence(summary.drill)}", soft_wrap=True, highlight=False)
    console.print(
        f"{summary.searches} searches, {summary.sessions_in_sql} sessions in SQL, "
        f"{summary.seconds['total']:.0f} s; report: {summary.report_html}",
        soft_wrap=True,
    )
    console.print(
        "next: open the report in a browser; `shelfwise abtest --help` for experiments of your own; "
        "`shelfwise stream produce --help` to join events of your own",
        soft_wrap=True,
    )


def _print_truth(truth: "Truth") -> None:
    from deploy.demo.truth_report import line
    from deploy.simulation.marketplace.truth import percent

    print_table(
        "the truth, from the simulator: expected orders and GMV, without noise",
        ("arm", "searches", "without a version", "orders per 100", "orders over the incoming order", "GMV over it"),
        [
            (
                arm.arm,
                arm.searches,
                arm.fallbacks,
                f"{arm.orders_per_100:.2f}",
                f"{percent(arm.gain)}, by thirds {', '.join(percent(third) for third in arm.thirds)}",
                f"{percent(arm.gmv_gain)}, s.e. {percent(arm.gmv_standard_error)}",
            )
            for arm in truth.arms
        ],
    )
    console.print(f"true orders: {line(truth)}", soft_wrap=True, highlight=False)


def _percent(share: float | None) -> str:
    return "undefined" if share is None else f"{100 * share:+.2f} %"


def _p(p: float | None) -> str:
    from abtest.render import p_value

    return "undefined" if p is None else p_value(p)
