"""`shelfwise marketplace`: the simulated shop."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands import variants
from deploy.commands.output import JsonFlag, context, err_console, fail, print_json, print_table
from deploy.commands.times import TIME_HELP, parse_time
from deploy.stop_event import stop_event
from stream.errors import ConfigError

if TYPE_CHECKING:
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from deploy.simulation.marketplace.truth import Truth
    from stream.broker.settings import Broker
    from trainer.learning.learner import Learner

CONTINUE = "continue"
# Of the vectors of simulated items.
WIDTH = 16

app = typer.Typer(no_args_is_help=True)

Seed = Annotated[int | None, typer.Option(help="Seed of all random numbers.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Items = Annotated[int | None, typer.Option(help="Number of items.")]
Start = Annotated[
    str | None,
    typer.Option(
        help=f"Simulated time of the first moment: `{CONTINUE}` for one minute after the newest tick on the topics, or"
        f" {TIME_HELP}"
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
    pace: Annotated[
        float | None, typer.Option(help="Simulated seconds per wall second at most; 0 sets no limit.")
    ] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Show the incoming order, without a service.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let shoppers search, click, buy and send back in simulated time; ends when all windows have passed."""
    from deploy.kafka.choice import configured
    from deploy.simulation.marketplace.driver import Driver
    from deploy.simulation.marketplace.market import Market
    from deploy.simulation.marketplace.rankers import IncomingOrder, Ranker, RankingService
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from serving.settings import ServingSettings
    from stream.broker.producer import Producer
    from stream.operations.tick_writer import Ticker
    from stream.query_hash_key import PrivacySettings

    overrides = _overrides(seed=seed, clients=clients, items=items, start=start)
    overrides |= {
        "marketplace.hours": hours,
        "marketplace.rate": rate,
        "marketplace.tick_s": tick_s,
        "marketplace.serving": serving,
        "marketplace.pace": pace,
    }
    loaded = context(ctx, overrides)
    if loaded.settings.get("privacy", PrivacySettings).client_id_key:
        raise ConfigError("privacy.client_id_key is set: the simulated shop sends events under ids that are not hashed")
    broker = configured(loaded)
    settings = _started(loaded.settings.get("marketplace", MarketplaceSettings), broker, start)
    # One thread is enough where nothing is waited for.
    market = Market(replace(settings, concurrency=1) if direct else settings)
    stopping = stop_event(ctx)
    token = loaded.settings.get("serving", ServingSettings).caller_token
    ranker: Ranker = (
        IncomingOrder(market) if direct else RankingService(market, settings.serving, token=token, wait=stopping.wait)
    )
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
    if summary.queries and not summary.impressions:
        raise fail(f"none of {summary.queries} searches got a list: {summary.last_error}")


@app.command()
def compare(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL[:VARIANT]",
            help=f"Model, or a variant: {variants.HELP}; repeatable.",
        ),
    ] = None,
    lists: Annotated[str, typer.Option(help="Numbers of lists to learn from, by commas.")] = "5000,25000",
    seeds: Annotated[int, typer.Option(min=1, help="Worlds, each with a log and fresh models of its own.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first world.")] = 101,
    test_lists: Annotated[int, typer.Option(min=2, help="Later lists to judge by.")] = 1_000,
    profile: Annotated[str | None, typer.Option(help="Profile of the models: tiny or full.")] = None,
    permute_labels: Annotated[
        bool,
        typer.Option(
            "--permute-labels", help="Control: move the clicks and orders of a list to learn from to other items of it."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare models by the truth: trained on the log of a shop in the incoming order, judged on later lists.

    Runs in one process, without a broker. The settings of the shop are those of `[marketplace]`.
    """
    from deploy.simulation.marketplace import comparison
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from trainer.learning.determinism import make_deterministic

    loaded = context(ctx)
    named = models or ["armmt", "prm", "armmt:modalities=text"]
    make_deterministic(1)
    rows = comparison.run(
        comparison.Plan(
            shop=loaded.settings.get("marketplace", MarketplaceSettings),
            seeds=range(first_seed, first_seed + seeds),
            lists=_counts(lists),
            num_test=test_lists,
            learners={name: _learner(ctx, name, profile) for name in named},
            permute=permute_labels,
        ),
        report=lambda line: err_console.print(line, highlight=False, soft_wrap=True),
    )
    found = comparison.differences(rows, named, comparison.INCOMING)
    found += comparison.differences(rows, named[1:], named[0])
    limits = comparison.bounds(rows)
    if as_json:
        print_json({"bounds": limits, "differences": found})
        return
    print_table(
        f"true orders in points of the incoming order's; {', '.join(f'{n} {100 * v:+.1f}' for n, v in limits.items())}",
        ("lists", "model", "less", "orders", "s.e.", "GMV", "orders by seed"),
        [
            (
                one.lists,
                one.name,
                one.reference,
                f"{100 * one.orders:+.2f}",
                f"{100 * one.error:.2f}",
                f"{100 * one.gmv:+.1f}",
                ", ".join(f"{100 * gain:+.1f}" for gain in one.by_seed),
            )
            for one in found
        ],
    )


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or counts != sorted(set(counts)) or counts[0] < 1:
        raise ConfigError(f"--lists {text}: expected ascending numbers from 1, by commas")
    return counts


def _learner(ctx: typer.Context, name: str, profile: str | None) -> "Callable[[int], Learner]":
    """Return the function that makes a fresh learner of a variant with a seed."""
    from trainer.configs import LearningSettings, ModelConfig
    from trainer.learning.determinism import auto_device
    from trainer.learning.learner import Learner

    model, given = variants.variant(name, "--models")
    loaded = context(ctx, {"trainer.model": model, "trainer.profile": profile, "model.vector_width": WIDTH, **given})
    config = loaded.settings.get("model", ModelConfig)
    learning = loaded.settings.get("learning", LearningSettings)
    return lambda seed: Learner(model, config, replace(learning, seed=seed), device=auto_device("cpu"))


def _print_truth(truth: "Truth") -> None:
    from deploy.simulation.marketplace.truth import percent

    print_table(
        "truth per arm (expected, without noise)",
        ("arm", "lists", "fallbacks", "per 100 lists: clicked", "orders", "GMV", "orders over the incoming order"),
        [
            (
                name or None,
                arm.queries,
                arm.fallbacks,
                *(f"{100 * total / arm.queries:.2f}" for total in (arm.clicked_lists, arm.orders, arm.money.x / 100)),
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
        "marketplace.start_ts": None if start == CONTINUE else parse_time(start, "--start"),
    }


def _started(settings: "MarketplaceSettings", broker: "Broker", start: str | None) -> "MarketplaceSettings":
    from stream.operations.tick_writer import newest_ts

    newest = newest_ts(broker) if start == CONTINUE else None
    return settings if newest is None else replace(settings, start_ts=newest + 60_000)
