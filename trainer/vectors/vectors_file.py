"""Parquet files of vectors: one row per item, in the fields that the topic `items` has for them."""

import hashlib
import io
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import polars as pl

from stream.files import replace_file
from trainer.vectors.embed import Embedded, Vectors

MANIFEST: Final = "manifest.json"
MODALITIES: Final = ("text", "image")


def fields_of(vectors: Vectors | None, at: int) -> tuple[bytes | None, str | None]:
    """Return the vector of an item as little-endian float16, and the name of its vector space; None without one."""
    if vectors is None or vectors.space is None or not vectors.present[at]:
        return None, None
    return vectors.values[at].astype("<f2").tobytes(), vectors.space.definition.name


def write(path: Path, found: Embedded) -> None:
    """Write the vectors as Parquet, whole or not at all.

    The columns are `item_id` and, for text and image, `text_vec`, `text_model`, `image_vec` and `image_model`.

    Raises:
        OSError: If the file cannot be written.
    """
    columns: dict[str, pl.Series] = {"item_id": pl.Series(found.item_ids, dtype=pl.String)}
    for name in MODALITIES:
        pairs = [fields_of(found.vectors.get(name), at) for at in range(len(found.item_ids))]
        columns[f"{name}_vec"] = pl.Series([vector for vector, _ in pairs], dtype=pl.Binary)
        columns[f"{name}_model"] = pl.Series([space for _, space in pairs], dtype=pl.String)
    content = io.BytesIO()
    pl.DataFrame(columns).write_parquet(content)
    replace_file(path, content.getvalue())


def write_manifest(folder: Path, source: Path, found: Embedded) -> None:
    """Write what the last run of a folder read and made, as JSON.

    Raises:
        OSError: If a file cannot be read or written.
    """
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        "input": {"file": source.name, "sha256": digest, "items": len(found.item_ids)},
        "vectors": {
            name: {
                "space": vectors.space.definition.name,
                "encoder": vectors.space.definition.encoder,
                "weights": vectors.space.definition.weights,
                "reducer": vectors.space.definition.reducer,
                "items": int(np.count_nonzero(vectors.present)),
            }
            for name, vectors in found.vectors.items()
            if vectors.space is not None
        },
    }
    replace_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
