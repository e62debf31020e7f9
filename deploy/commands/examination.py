"""`shelfwise trainer examination`: how likely shoppers look at each position, from logged lists."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import JsonFlag, console, context, for_others, print_json, print_table
from stream.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploy.configuration import Context
    from stream.schemas.session import Session
    from trainer.examination.curve import Curve

METHODS = ("swaps", "shuffle", "em", "file")


def examination(
    ctx: typer.Context,
    method: Annotated[
        str,
        typer.Option(
            help="swaps or shuffle: lists whose positions were drawn; em: items that one query showed at several"
            " positions; file: a given curve."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="File of exported sessions, or the topic `sessions`; not with --method file.")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(help="With --method file: a JSON list of chances from position 1 on, or an examination.json."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for examination.json and examination.html.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate the examination curve, print it with intervals, and print the settings that learn by it.

    The command refuses data that tell too little.
    """
    import msgspec

    from trainer.examination import render

    if method not in METHODS:
        raise ConfigError(f"--method {method}: expected {', '.join(METHODS)}")
    found = _given(data, curve) if method == "file" else _estimated(ctx, method, data, curve, resamples, seed)
    if out is not None:
        with for_others(ctx):
            out.mkdir(parents=True, exist_ok=True)
            (out / "examination.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
            (out / "examination.html").write_text(render.page(found), encoding="utf-8")
    if as_json:
        print_json(found)
        return
    print_table(f"examination by {found.method}, {found.data}", render.COLUMNS, render.table_rows(found))
    for sentence in render.notes(found):
        console.print(f"- {sentence}", highlight=False, soft_wrap=True)
    console.print(render.setting(found), highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"written: {out / 'examination.html'}", highlight=False, soft_wrap=True)


def _given(data: str | None, curve: Path | None) -> "Curve":
    from trainer.examination.curve import load

    if data is not None:
        raise ConfigError(f"--data {data}: not with --method file, which reads --curve alone")
    if curve is None:
        raise ConfigError("--curve is missing: --method file reads a JSON list of chances from position 1 on")
    return load(curve)


def _estimated(
    ctx: typer.Context, method: str, data: str | None, curve: Path | None, resamples: int, seed: int
) -> "Curve":
    from trainer.examination.estimate import estimate
    from trainer.examination.observations import observe

    if curve is not None:
        raise ConfigError(f"--curve {curve}: only with --method file")
    if data is None:
        raise ConfigError("--data is missing: expected a file of exported sessions, or the topic `sessions`")
    rows = observe(_sessions(context(ctx), data), method)  # type: ignore[arg-type]
    return estimate(rows, method, data=Path(data).name, resamples=resamples, seed=seed)  # type: ignore[arg-type]


def _sessions(loaded: "Context", data: str) -> "Iterable[Session]":
    from stream.operations.export import newest, sessions
    from stream.operations.exported import read_sessions
    from stream.schemas import topics

    if data != topics.SESSIONS:
        return newest(read_sessions(Path(data))).values()
    from deploy.commands.stream import require_topics
    from deploy.kafka.choice import configured
    from stream.broker.reader import read_to_end

    broker = configured(loaded)
    require_topics(loaded, broker, [topics.SESSIONS])
    return newest(sessions(read_to_end(broker, topics.SESSIONS))).values()
