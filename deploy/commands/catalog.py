"""`shelfwise catalog`: the items of a shop, and their vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.output import JsonFlag, context, err_console, print_json, print_table

if TYPE_CHECKING:
    from trainer.vectors.embed import Embedded

app = typer.Typer(no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """Group the commands, also while there is one."""


@app.command()
def embed(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Items as .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="Parquet file for the vectors.")],
    text_encoder: Annotated[
        str, typer.Option(metavar="wordllama|hashed|FOLDER", help="Encoder of titles and attributes.")
    ] = "wordllama",
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the vector space; by default --out with the suffix .space.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Numbers of a vector.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Items that are encoded together.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the sample that a new vector space is fitted from.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Turn titles and attributes into vectors for ARMMT and other models. A run that was killed goes on where it was.

    The first run fits the vector space and keeps it in the folder; later runs with the same folder put further items
    into it, and refuse another encoder.
    """
    import time

    from rich.progress import Progress

    from stream.errors import ConfigError
    from trainer.vectors import embed as job
    from trainer.vectors import vectors_file
    from trainer.vectors.catalogue_file import CatalogueFile
    from trainer.vectors.text_encoders import open_text_encoder

    context(ctx)
    if out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: expected a file that ends in .parquet")
    folder = out.with_suffix(".space") if space is None else space
    source = CatalogueFile(file)
    plan = job.Plan(folder=folder, width=width, batch=batch, seed=seed)

    def deliver(found: "Embedded") -> None:
        vectors_file.write(out, found)
        vectors_file.write_manifest(folder, file, found)

    begun_s = time.monotonic()
    modalities = [job.text(open_text_encoder(text_encoder))]
    with Progress(console=err_console.rich, transient=True) as bar:
        tasks = {each.name: bar.add_task(each.name, total=None) for each in modalities}
        found = job.embed(
            source,
            modalities,
            plan,
            deliver=deliver,
            on_progress=lambda name, done, of: bar.update(tasks[name], completed=done, total=of),
        )
    seconds = time.monotonic() - begun_s
    if source.not_read:
        err_console.print(f"not read: {', '.join(sorted(source.not_read))}", markup=False, highlight=False)
    if as_json:
        print_json(_document(found, out, seconds))
    else:
        _print(found, out, seconds)


def _print(found: "Embedded", out: Path, seconds: float) -> None:
    rows = [
        (name, each.space.definition.name if each.space else "-", int(each.present.sum()), each.num_encoded)
        for name, each in found.vectors.items()
    ]
    title = f"{len(found.item_ids)} items in {seconds:.1f} s, written to {out}"
    print_table(title, ("vectors", "vector space", "items", "encoded by this run"), rows)


def _document(found: "Embedded", out: Path, seconds: float) -> dict[str, object]:
    return {
        "items": len(found.item_ids),
        "seconds": round(seconds, 3),
        "out": str(out),
        "vectors": {
            name: {
                "space": each.space.definition.name if each.space else None,
                "items": int(each.present.sum()),
                "encoded": each.num_encoded,
            }
            for name, each in found.vectors.items()
        },
    }
