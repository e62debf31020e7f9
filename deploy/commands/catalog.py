"""`shelfwise catalog`: the items of a shop, and their vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.output import JsonFlag, context, err_console, print_json, print_table

if TYPE_CHECKING:
    from deploy.configuration import Context
    from stream.broker.settings import Broker
    from trainer.vectors.embed import Embedded, Modality
    from trainer.vectors.to_items import Published

NO_ENCODER = "none"
_SHOWN = 5
"""Ids that a message names."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """Group the commands, also while there is one."""


@app.command()
def embed(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Items as .csv, .jsonl or .parquet.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE|items", help="Parquet file for the vectors, or `items` for the topic.")
    ],
    text_encoder: Annotated[
        str, typer.Option(metavar="wordllama|hashed|FOLDER|none", help="Encoder of titles and attributes.")
    ] = "wordllama",
    image_encoder: Annotated[
        str,
        typer.Option(
            metavar="efficientnet-lite0|regnet_...|none",
            help="Encoder of pictures; needed only for items that have one.",
        ),
    ] = "efficientnet-lite0",
    image_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of the image encoder; a RegNet needs them.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Part of each picture to keep: item_id, x, y, width, height.")
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="ONNX graph that finds the part to keep of pictures without a box."),
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the vector spaces; by default --out with the suffix .space, for the topic `vectors` in the "
            "home folder.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Items that are encoded and kept together.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the sample that a new vector space is fitted from.")] = 0,
    device: Annotated[str, typer.Option(help="Device of image encoders: cpu, cuda or auto.")] = "auto",
    replace_space: Annotated[
        bool,
        typer.Option("--replace-space", help="Put vectors into the topic although it holds those of another space."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn titles and pictures into vectors for ARMMT and other models. A run that was killed goes on where it was.

    The first run fits the vector spaces and keeps them in the folder; later runs with the same folder put further items
    into them, and refuse another encoder.
    """
    import time

    from rich.progress import Progress

    from stream.errors import ConfigError
    from stream.schemas import topics
    from trainer.vectors import embed as job
    from trainer.vectors import vectors_file
    from trainer.vectors.catalogue_file import CatalogueFile
    from trainer.vectors.text_encoders import open_text_encoder

    called = context(ctx)
    is_topic = str(out) == topics.ITEMS
    if not is_topic and out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: expected a file that ends in .parquet, or {topics.ITEMS} for the topic")
    folder = space or (called.home / "vectors" if is_topic else out.with_suffix(".space"))
    source = CatalogueFile(file)
    if not is_topic and out.is_dir():
        raise ConfigError(f"--out {out}: expected a file, got a folder")
    if not is_topic and out.exists() and out.samefile(file):
        raise ConfigError(f"--out {out}: the items are in this file; name another one for the vectors")
    plan = job.Plan(folder=folder, width=width, batch=batch, seed=seed)

    published: Published | None = None
    # A broker that is not there is known before hours of encoding.
    broker = _broker(called) if is_topic else None

    def deliver(found: "Embedded") -> None:
        nonlocal published
        if broker is not None:
            published = _publish(broker, found, replaces_space=replace_space)
        else:
            vectors_file.write(out, found)
        vectors_file.write_manifest(folder, file, found)

    begun_s = time.monotonic()
    modalities: list[Modality[Any]] = []
    if text_encoder != NO_ENCODER:
        modalities.append(job.text(open_text_encoder(text_encoder)))
    # A file of texts needs no torch and no weights of an image encoder.
    if image_encoder != NO_ENCODER and any(row.image is not None for row in source):
        modalities.append(_pictures(image_encoder, image_weights, boxes, detector, device))
    if not modalities:
        raise ConfigError(f"{file}: nothing to encode: no text encoder, and no pictures or no image encoder")
    console = err_console.rich
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
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
        err_console.print(f"not read: {', '.join(sorted(source.not_read))}", highlight=False)
    if published is not None and published.unknown:
        named = ", ".join(published.unknown[:_SHOWN])
        more = f" and {len(published.unknown) - _SHOWN} more" if len(published.unknown) > _SHOWN else ""
        err_console.print(f"not in the topic: {named}{more}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(_document(found, out, seconds, published))
    else:
        _print(found, out, seconds, published)


def _pictures(
    encoder: str, weights: Path | None, boxes: Path | None, detector: Path | None, device: str
) -> "Modality[Any]":
    from trainer.learning.determinism import auto_device
    from trainer.vectors.boxes import read_boxes
    from trainer.vectors.detector import open_detector
    from trainer.vectors.image_encoders import open_image_encoder
    from trainer.vectors.pictures import image

    return image(
        open_image_encoder(encoder, weights, auto_device(device)),
        None if boxes is None else read_boxes(boxes),
        None if detector is None else open_detector(detector),
    )


def _broker(called: "Context") -> "Broker":
    from deploy.kafka.choice import configured
    from stream.broker.offsets import end_offsets
    from stream.schemas import topics

    broker = configured(called)
    end_offsets(broker, [topics.ITEMS])
    return broker


def _publish(broker: "Broker", found: "Embedded", *, replaces_space: bool) -> "Published":
    from stream.broker.producer import Producer
    from stream.replicas.catalogue import Catalogue
    from stream.wall_clock import epoch_ms
    from trainer.vectors.to_items import publish_vectors

    items = Catalogue.load(broker)
    with Producer(broker) as producer:
        return publish_vectors(producer, items, found, now_ts=epoch_ms(), replaces_space=replaces_space)


def _print(found: "Embedded", out: Path, seconds: float, published: "Published | None") -> None:
    rows = [
        (name, each.space.definition.name if each.space else None, int(each.present.sum()), each.num_encoded)
        for name, each in found.vectors.items()
    ]
    written = f"written to {out}"
    if published is not None:
        written = f"{published.num_published} published, {published.num_unchanged} unchanged"
    title = f"{len(found.item_ids)} items in {seconds:.1f} s, {written}"
    print_table(title, ("vectors", "vector space", "items", "encoded by this run"), rows)


def _document(found: "Embedded", out: Path, seconds: float, published: "Published | None") -> dict[str, object]:
    return {
        "items": len(found.item_ids),
        "seconds": round(seconds, 3),
        "out": str(out),
        "published": published,
        "vectors": {
            name: {
                "space": each.space.definition.name if each.space else None,
                "items": int(each.present.sum()),
                "encoded": each.num_encoded,
            }
            for name, each in found.vectors.items()
        },
    }
