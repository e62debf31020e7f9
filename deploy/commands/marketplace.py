"""`shelfwise marketplace`: the simulated shop."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import JsonFlag, context, err_console, print_json, print_table
from deploy.stop_event import stop_event
from stream.errors import ConfigError

if TYPE_CHECKING:
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from deploy.simulation.marketplace.truth import Truth
    from stream.broker.settings import Broker

CONTINUE = "continue"

app = typer.Typer(no_args_is_help=True)

Seed = Annotated[int | None, typer.Option(help="Key of all random numbers.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Items = Annotated[int | None, typer.Option(help="Number of items.")]
Start = Annotated[
    str | None,
    typer.Option(
        help="Simulated time of the first moment: ISO 8601 with zone, such as 2026-01-05T00:00Z, or `continue` for one"
        " minute after the newest tick on the topics."
    ),
]


@app.command("publish-items")
def publish_items(
    ctx: typer.Context,
    seed: Seed = None,
    clients: Clients = None,
    items: Items = None,
    start: Start = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the catalogue as it stands before the first search to the topic `items`."""
    from deploy.kafka.choice import configured
    from deploy.simulation.marketplace.market import Market
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from stream.broker.producer import Producer
    from stream.replicas.catalogue import publish

    loaded = context(ctx, _overrides(seed=seed, clients=clients, items=items, start=start))
    broker = configured(loaded)
    market = Market(_started(loaded.settings.get("marketplace", MarketplaceSettings), broker, start))
    with Producer(broker) as producer:
        num_items = publish(producer, market.shelf.items_at(market.settings.start_ts))
    if as_json:
        print_json({"items": num_items})
    else:
        err_console.print(f"{num_items} items published")


@app.command()
def run(
    ctx: typer.Context,
    seed: Seed = None,
    hours: Annotated[float | None, typer.Option(help="Simulated hours with searches.")] = None,
    clients: Clients = None,
    items: Items = None,
    rate: Annotated[float | None, typer.Option(help="Searches per simulated hour.")] = None,
    tick_s: Annotated[float | None, typer.Option(help="Simulated seconds between two ticks.")] = None,
    start: Start = None,
    serving: Annotated[str | None, typer.Option(help="Address of the ranking service, http://HOST:PORT.")] = None,
    pace: Annotated[float | None, typer.Option(help="Simulated seconds per wall second at most, 0 = any.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Show the upstream order, without a service.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let shoppers search, click, buy and send back in simulated time; ends when all windows have passed."""
    from deploy.kafka.choice import configured
    from deploy.simulation.marketplace.driver import Driver
    from deploy.simulation.marketplace.market import Market
    from deploy.simulation.marketplace.rankers import IncomingOrder, Ranker, RankingService
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from stream.broker.producer import Producer
    from stream.operations.tick_writer import Ticker

    overrides = _overrides(seed=seed, clients=clients, items=items, start=start)
    overrides |= {
        "marketplace.hours": hours,
        "marketplace.rate": rate,
        "marketplace.tick_s": tick_s,
        "marketplace.serving": serving,
        "marketplace.pace": pace,
    }
    loaded = context(ctx, overrides)
    broker = configured(loaded)
    settings = _started(loaded.settings.get("marketplace", MarketplaceSettings), broker, start)
    # One thread is enough where nothing is waited for.
    market = Market(replace(settings, concurrency=1) if direct else settings)
    stopping = stop_event(ctx)
    ranker: Ranker = IncomingOrder(market) if direct else RankingService(market, settings.serving, wait=stopping.wait)
    with Producer(broker) as producer, Ticker(broker, producer, writer="marketplace") as ticker:
        summary = Driver(
            market,
            ranker,
            producer,
            ticker,
            stop=stopping.is_set,
            report=lambda line: err_console.print(line, highlight=False),
            wait=stopping.wait,
        ).run()
    if as_json:
        print_json(summary)
    else:
        shown = {name: getattr(summary, name) for name in summary.__slots__ if name != "truth"}
        print_table("marketplace", ("what", "value"), list(shown.items()))
        _print_truth(summary.truth)


def _print_truth(truth: "Truth") -> None:
    from deploy.simulation.marketplace.truth import percent

    print_table(
        "truth per arm (expected, without noise)",
        ("arm", "lists", "fallbacks", "per 100 lists: clicked", "orders", "GMV", "orders over the incoming order"),
        [
            (
                name or "-",
                arm.queries,
                arm.fallbacks,
                *(f"{100 * total / arm.queries:.2f}" for total in (arm.clicked_lists, arm.orders, arm.gmv_minor / 100)),
                percent(arm.gain.gain),
            )
            for name, arm in sorted(truth.arms.items())
        ],
    )
    if truth.versions:
        print_table(
            "truth per version",
            ("lineage", "version", "lists", "orders over the incoming order", "s.e."),
            [
                (v.lineage, v.version, v.gain.lists, percent(v.gain.gain), percent(v.gain.standard_error))
                for v in truth.versions
            ],
        )


def _overrides(*, seed: int | None, clients: int | None, items: int | None, start: str | None) -> dict[str, object]:
    return {
        "marketplace.seed": seed,
        "marketplace.clients": clients,
        "marketplace.items": items,
        "marketplace.start_ts": None if start in {None, CONTINUE} else _epoch_ms(start or ""),
    }


def _started(settings: "MarketplaceSettings", broker: "Broker", start: str | None) -> "MarketplaceSettings":
    from stream.operations.tick_writer import newest_ts

    newest = newest_ts(broker) if start == CONTINUE else None
    return settings if newest is None else replace(settings, start_ts=newest + 60_000)


def _epoch_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--start {text}: {error}") from error
    if moment.tzinfo is None:
        raise ConfigError(f"--start {text}: expected a time with its zone, such as 2026-01-05T00:00Z")
    return round(moment.timestamp() * 1_000)
