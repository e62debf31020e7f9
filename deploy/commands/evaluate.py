"""`shelfwise trainer evaluate`: models, peers and simple rankers on logged lists, in one table."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands import variants
from deploy.commands.output import JsonFlag, console, context, err_console, for_others, print_json, print_table
from deploy.commands.times import TIME_HELP, parse_time
from stream.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from deploy.configuration import Context
    from stream.replicas.catalogue import Catalogue
    from trainer.evaluation.evaluate import Progress
    from trainer.evaluation.lists import Dataset, LabelledList, Split

_OFFLINE_LR = 0.001
TRIVAGO_FILE = "trivago_sessions_dev.parquet"


def evaluate(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="File of exported sessions, the topic `sessions`, or the kind of --path: trivago, libsvm, jdsearch."
        ),
    ],
    models: Annotated[
        str,
        typer.Option(
            help="Models, by commas: armmt, prm, setrank, dlcm, din, mlp, mmr, dpp, pier, smar, lightgbm; and variants,"
            f" such as {variants.HELP}."
        ),
    ] = "mlp,prm,armmt",
    path: Annotated[
        Path | None,
        typer.Option(help="File or folder of this kind; by default the trivago log is in the folder SHELFWISE_DATA."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="JSON lines of the topic `items`, for brands and vectors of a file's sessions.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Profile of the models: tiny or full.")] = None,
    model_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[MODEL.]KEY=VALUE",
            help="Set a key of the section [model], of one model or of all that have it; repeatable.",
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Label that makes an item positive: order or click.")] = "order",
    policy: Annotated[
        str | None, typer.Option(help="Only test lists that this policy ordered: shuffle; by default all lists.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each model.")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.")] = None,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a lower validation loss that end a fit.")] = 3,
    lr: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Learning rate of dense weights, in place of learning.lr; for AdamW 0.001."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Row to compare with; by default lightgbm if asked for, else the displayed order."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Ranks that orders and GMV are summed over.")] = 5,
    validation_from: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"Start of validation, by default after 60 % of the lists: {TIME_HELP}"),
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Start of the test part, by default after 80 %: {TIME_HELP}")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of ties, bootstrap and random ranker.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap.")] = 2_000,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and evaluation.html.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train models on the early lists of a log and compare their orders of the late ones.

    Progress goes to standard error. Learning follows the settings of `[learning]`; where no learning rate is set, AdamW
    has a higher one than in a stream: a finite log makes fewer steps.
    """
    import msgspec
    from rich.progress import Progress as Bar

    from abtest.experiment import SHUFFLE
    from trainer.configs import LearningSettings, ModelConfig
    from trainer.evaluation import render
    from trainer.evaluation.data_config import for_data
    from trainer.evaluation.evaluate import Request
    from trainer.evaluation.evaluate import evaluate as run
    from trainer.evaluation.lightgbm_peer import LIGHTGBM
    from trainer.evaluation.lists import shuffled_alone
    from trainer.evaluation.neural import Patience
    from trainer.learning.determinism import auto_device, make_deterministic
    from trainer.learning.learner import Learner
    from trainer.settings import TrainerSettings

    if label not in {"order", "click"}:
        raise ConfigError(f"--label {label}: expected order or click")
    if policy not in {None, SHUFFLE}:
        raise ConfigError(f"--policy {policy}: expected {SHUFFLE}")
    loaded = context(ctx, {"trainer.profile": profile, "learning.epochs": epochs, "learning.lr": lr})
    settings = loaded.settings.get("trainer", TrainerSettings)
    chosen = _names(models)
    learning = loaded.settings.get("learning", LearningSettings)
    origins = {f"{setting.section}.{setting.key}": setting.origin for setting in loaded.settings.resolved}
    if origins["learning.lr"] == "default" and learning.optimizer == "adamw":
        learning = replace(learning, lr=_OFFLINE_LR)
    differing = {name: variants.variant(name, "--models", (LIGHTGBM,)) for name in chosen if name != LIGHTGBM}
    overrides = variants.overrides(model_set or [], differing)
    configs = {
        name: context(ctx, {"trainer.profile": profile, "trainer.model": model, **overrides[name]}).settings.get(
            "model", ModelConfig
        )
        for name, (model, _) in differing.items()
    }
    make_deterministic(settings.threads)
    torch_device = auto_device(device)
    bounds = parse_time(validation_from, "--validation-from"), parse_time(test_from, "--test-from")
    found = _load(loaded, data, path, items, bounds)
    if policy is not None:
        found = replace(found, split=shuffled_alone(found.split), name=f"{found.name}, shuffled test lists")
    if model_set:
        found = replace(found, note=f"{found.note}; {', '.join(model_set)}")
    configs = {name: for_data(differing[name][0], config, found) for name, config in configs.items()}
    request = Request(
        models=chosen,
        learner=lambda name, number: Learner(
            differing[name][0], configs[name], replace(learning, seed=number), device=torch_device
        ),
        label="order" if label == "order" else "click",
        seeds=seeds,
        limits=Patience(epochs=learning.epochs, patience=patience),
        reference=reference,
        k=k,
        resamples=resamples,
        seed=seed,
        threads=settings.threads,
    )
    with Bar(console=err_console.rich, transient=True, disable=not err_console.rich.is_terminal) as bar:
        result = run(found, request, report=_reporter(bar, len(chosen) * seeds))
    if out is not None:
        with for_others(ctx):
            out.mkdir(parents=True, exist_ok=True)
            (out / "evaluation.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
            (out / "evaluation.html").write_text(render.page(result), encoding="utf-8")
    if as_json:
        print_json(result)
        return
    print_table(f"{result.data}, {result.label}s", render.table_columns(result), render.table_rows(result))
    for sentence in render.notes(result):
        console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written: {out / 'evaluation.html'}", highlight=False, soft_wrap=True)


def _names(models: str) -> list[str]:
    names = [name for name in (each.strip() for each in models.split(",")) if name]
    if not names:
        raise ConfigError("--models names no model")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--models names {name} twice")
    return names


def _reporter(bar: "Bar", num_fits: int) -> "Callable[[Progress], None]":
    """Return the function that shows progress: a bar on a terminal, else one line per epoch."""
    task = bar.add_task("fits", total=num_fits)

    def report(step: "Progress") -> None:
        if step.is_done:
            bar.update(task, advance=1)
            return
        assert step.epoch is not None, "a step that ends no fit is an epoch"
        text = (
            f"{step.row}, seed {step.seed}: epoch {step.epoch.number}, training loss {step.epoch.train_loss:.4f},"
            f" validation loss {step.epoch.validation_loss:.4f}"
        )
        bar.update(task, description=text)
        if bar.disable:
            err_console.print(text, highlight=False, soft_wrap=True)

    return report


def _load(
    loaded: "Context",
    data: str,
    path: Path | None,
    items: Path | None,
    bounds: tuple[int | None, int | None],
) -> "Dataset":
    from stream.schemas import topics

    if data == "trivago":
        return _trivago(path or _trivago_path(), bounds)
    if data == "libsvm":
        return _libsvm(_required(path, "a file, or a folder with train.txt, vali.txt and test.txt"))
    if data == "jdsearch":
        from trainer.evaluation import jdsearch

        return jdsearch.load(
            _required(path, "a folder with release_data.txt and product_data.txt, or a file of searches")
        )
    if path is not None:
        raise ConfigError(f"--path {path}: only for --data trivago, libsvm or jdsearch, not --data {data}")
    if data == topics.SESSIONS:
        return _topic(loaded, bounds)
    if not Path(data).exists():
        raise ConfigError(f"--data {data}: expected a file, `{topics.SESSIONS}`, trivago, libsvm or jdsearch")
    return _file(Path(data), items, bounds)


def _trivago_path() -> Path:
    from deploy.configuration import environment

    folder = environment().get("SHELFWISE_DATA")
    if not folder:
        raise ConfigError("--data trivago needs --path FILE, or the folder of the log in SHELFWISE_DATA")
    return Path(folder, TRIVAGO_FILE)


def _trivago(path: Path, bounds: tuple[int | None, int | None]) -> "Dataset":
    from deploy.simulation.replay import trivago_lists

    _say(f"joining the events of {path}")
    validation_from_ts, test_from_ts = bounds
    return trivago_lists.load(
        path,
        validation_from_ts=trivago_lists.VALIDATION_FROM_TS if validation_from_ts is None else validation_from_ts,
        test_from_ts=trivago_lists.TEST_FROM_TS if test_from_ts is None else test_from_ts,
    )


def _required(path: Path | None, wanted: str) -> Path:
    if path is None:
        raise ConfigError(f"--path is missing: expected {wanted}")
    return path


def _libsvm(path: Path) -> "Dataset":
    from trainer.evaluation import libsvm

    return libsvm.load(path)


def _topic(loaded: "Context", bounds: tuple[int | None, int | None]) -> "Dataset":
    from deploy.commands.stream import require_topics
    from deploy.kafka.choice import configured
    from stream.broker.reader import read_to_end
    from stream.operations.export import newest, sessions
    from stream.replicas.catalogue import Catalogue
    from stream.schemas import topics
    from trainer.evaluation.lists import Dataset, from_sessions

    broker = configured(loaded)
    require_topics(loaded, broker, [topics.SESSIONS, topics.ITEMS])
    found = newest(sessions(read_to_end(broker, topics.SESSIONS)))
    lists, rejected = from_sessions(found.values(), Catalogue.load(broker))
    return Dataset(name="topic sessions", note=_NOTE, split=_split(lists, bounds), num_rejected=rejected)


def _file(path: Path, items: Path | None, bounds: tuple[int | None, int | None]) -> "Dataset":
    import polars as pl

    from deploy.simulation.replay import trivago_lists
    from stream.operations.export import newest
    from stream.operations.exported import read_sessions
    from trainer.evaluation.lists import Dataset, from_sessions

    if path.is_dir() or path.suffix in {".txt", ".svm", ".libsvm"}:
        return _libsvm(path)
    if path.suffix == ".parquet" and trivago_lists.is_log(pl.read_parquet_schema(path)):
        return _trivago(path, bounds)
    lists, rejected = from_sessions(newest(read_sessions(path)).values(), _catalogue(items))
    return Dataset(name=path.name, note=_NOTE, split=_split(lists, bounds), num_rejected=rejected)


_NOTE = "features as served; the displayed order is that of the logging ranker, and clicks depend on it"


def _catalogue(items: Path | None) -> "Catalogue":
    import msgspec

    from stream.replicas.catalogue import Catalogue
    from stream.schemas.events import Item

    found = Catalogue()
    if items is not None:
        with items.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    found.put(msgspec.json.decode(line, type=Item))
                except msgspec.MsgspecError as error:
                    raise ConfigError(f"{items}, line {number}: {error}") from error
    return found


def _split(lists: "Sequence[LabelledList]", bounds: tuple[int | None, int | None]) -> "Split":
    from trainer.evaluation.lists import split_by_share, split_by_time

    validation_from_ts, test_from_ts = bounds
    if validation_from_ts is None and test_from_ts is None:
        return split_by_share(lists)
    if validation_from_ts is None or test_from_ts is None:
        raise ConfigError("--validation-from and --test-from go together: one of them is missing")
    return split_by_time(lists, validation_from_ts, test_from_ts)


def _say(text: str) -> None:
    err_console.print(text, highlight=False, soft_wrap=True)
