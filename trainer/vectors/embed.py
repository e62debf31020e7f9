"""A run over a catalogue file: each item encoded in batches, resumable, and reduced into a vector space per modality.

Rows of an encoder are kept as parts until the run is finished. So after a crash the next run encodes only what is
missing, and ends with the vectors of an undisturbed one: batches are cut the same way, and the reducer is fitted once.

Source: docs/vectors.md.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic

import numpy as np
from numpy.typing import NDArray

from stream.errors import ConfigError
from stream.failpoints import Failpoint, no_failpoint
from stream.files import FolderInUseError, FolderLock
from trainer.vectors import reducer, space
from trainer.vectors.catalogue_file import CatalogueFile, CatalogueRow, chunks
from trainer.vectors.encoder import Encoder, Floats, Seen
from trainer.vectors.parts import Parts, key_of
from trainer.vectors.space import VectorSpace
from trainer.vectors.table_file import CatalogueFileError

MAX_FITTED: Final = 50_000
"""Items from which a reducer is fitted; of more, a seeded sample."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Modality(Generic[Seen]):
    """A part of each item that is encoded, such as its text.

    Attributes:
        name: `text` or `image`.
        encoder: Encoder of its contents.
        content: Returns the bytes that decide an item's row, None for an item without this modality.
        read: Returns these bytes as the encoder takes them.
    """

    name: str
    encoder: Encoder[Seen]
    content: Callable[[CatalogueRow], bytes | None]
    read: Callable[[CatalogueRow, bytes], Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """The vectors of one modality, one row per item of the file.

    Attributes:
        space: Their vector space; None if no item has the modality.
        values: float16 (N, D); 0 where an item has none.
        present: bool (N,).
        num_encoded: Items that this run encoded; the others came from parts of a run before.
    """

    space: VectorSpace | None
    values: NDArray[np.float16]
    present: NDArray[np.bool_]
    num_encoded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The items of a file with their vectors, by name of the modality."""

    item_ids: list[str]
    vectors: Mapping[str, Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Choices of a run.

    Attributes:
        folder: Where spaces and parts are kept.
        width: D, the width of the vectors.
        batch: Items that are encoded together.
        seed: Seed of the sample that a reducer is fitted from.
    """

    folder: Path
    width: int
    batch: int
    seed: int


def text(encoder: Encoder[str]) -> Modality[str]:
    """Return the modality of titles and attributes."""
    return Modality(
        name="text",
        encoder=encoder,
        content=lambda row: row.text.encode(),
        read=lambda _row, content: content.decode(),
    )


def embed(
    file: CatalogueFile,
    modalities: Sequence[Modality[Any]],
    plan: Plan,
    *,
    deliver: Callable[[Embedded], None],
    on_progress: Progress = lambda _name, _done, _all: None,
    failpoint: Failpoint = no_failpoint,
) -> Embedded:
    """Encode the items of a file, and deliver and return them with their vectors.

    Args:
        file: The items.
        modalities: What is encoded.
        plan: Choices of the run.
        deliver: Called once with the result; parts are removed after it.
        on_progress: Gets a modality's name, its finished items and all items, after each batch.
        failpoint: Called after each part that was written, for crash tests.

    Raises:
        CatalogueFileError: If the file or a row of it is refused, has no items, or has others later in the run.
        ConfigError: If the folder's vector space is of another encoder or width, too few items are there to fit one, or
            another run uses the folder.
        ArtifactError: If a file of the folder is damaged.
    """
    item_ids = [row.item_id for row in file]
    if not item_ids:
        raise CatalogueFileError(f"{file.path}: no items")
    try:
        lock = FolderLock(plan.folder)
    except FolderInUseError as error:
        raise ConfigError(f"{plan.folder}: another run uses this folder") from error
    with lock:
        runs = [
            _Run(file, modality, plan, item_ids=item_ids, on_progress=on_progress, failpoint=failpoint)
            for modality in modalities
        ]
        # A wrong encoder is refused before the first one spends hours.
        for run in runs:
            run.check()
        result = Embedded(item_ids=item_ids, vectors={run.name: run.vectors() for run in runs})
        deliver(result)
        shutil.rmtree(plan.folder / "parts", ignore_errors=True)
    return result


class _Run(Generic[Seen]):
    """One modality of a run."""

    def __init__(
        self,
        file: CatalogueFile,
        modality: Modality[Seen],
        plan: Plan,
        *,
        item_ids: Sequence[str],
        on_progress: Progress,
        failpoint: Failpoint,
    ) -> None:
        self.name = modality.name
        self._file, self._modality, self._plan, self._item_ids = file, modality, plan, item_ids
        self._on_progress, self._failpoint = on_progress, failpoint
        self._path = plan.folder / f"{modality.name}.safetensors"
        self._parts = Parts(plan.folder / "parts")
        self._space = space.read(self._path)

    def check(self) -> None:
        """Refuse an encoder that does not belong to the folder's space."""
        if self._space is not None:
            space.check(self._path, self._space, self._modality.encoder, self._plan.width)

    def vectors(self) -> Vectors:
        """Encode what is missing, and return the vectors of all items."""
        num_items = len(self._item_ids)
        present = np.zeros(num_items, np.bool_)
        keys: list[tuple[str, NDArray[np.int64]]] = []
        num_encoded = start = 0
        for chunk in chunks(self._unchanged(), self._plan.batch):
            contents = [(at, row, self._modality.content(row)) for at, row in enumerate(chunk, start)]
            found = [(at, row, content) for at, row, content in contents if content is not None]
            start += len(chunk)
            if found:
                key = key_of(self._modality.encoder.digest, (content for _, _, content in found))
                if self._parts.get(key, (len(found), self._modality.encoder.width)) is None:
                    self._parts.put(key, self._encoded([(row, content) for _, row, content in found]))
                    num_encoded += len(found)
                    self._failpoint("part")
                rows = np.array([at for at, _, _ in found])
                present[rows] = True
                keys.append((key, rows))
            self._on_progress(self.name, start, num_items)
        if keys and self._space is None:
            self._space = space.of(self._modality.encoder, reducer.fit(self._sample(keys), self._plan.width))
            space.write(self._path, self._space)
        values = np.zeros((num_items, self._plan.width), np.float16)
        for key, rows in keys:
            assert self._space is not None, "fitted above"
            values[rows] = self._space.reducer(self._rows(key, len(rows)))
        return Vectors(space=self._space if keys else None, values=values, present=present, num_encoded=num_encoded)

    def _unchanged(self) -> Iterator[CatalogueRow]:
        """Yield the items, and refuse a file that holds others than at the begin of the run."""
        again = "run the command again"
        num = 0
        for row in self._file:
            if num == len(self._item_ids) or row.item_id != self._item_ids[num]:
                before = f"'{self._item_ids[num]}'" if num < len(self._item_ids) else "no item"
                raise row.fault("item_id", f"{before}, as before the file changed during the run; {again}", row.item_id)
            num += 1
            yield row
        if num < len(self._item_ids):
            raise CatalogueFileError(
                f"{self._file.path}: expected {len(self._item_ids)} items, as before the file changed during the run, "
                f"got {num}; {again}"
            )

    def _encoded(self, found: Sequence[tuple[CatalogueRow, bytes]]) -> Floats:
        modality = self._modality
        rows = modality.encoder.encode([modality.read(row, content) for row, content in found])
        if rows.shape != (len(found), modality.encoder.width):
            expected = f"{len(found)} rows of {modality.encoder.width} numbers"
            raise ConfigError(f"{modality.encoder.name}: no encoder: expected {expected}, got {rows.shape}")
        finite = np.isfinite(rows.astype(np.float16)).all(axis=1)
        if not finite.all():
            row, content = found[int(np.argmin(finite))]
            raise row.fault(modality.name, f"what {modality.encoder.name} gives finite numbers for", content[:80])
        return rows

    def _sample(self, keys: Sequence[tuple[str, NDArray[np.int64]]]) -> NDArray[np.float16]:
        """Return the rows that a reducer is fitted from."""
        num_rows = sum(len(rows) for _, rows in keys)
        wanted = np.arange(num_rows)
        if num_rows > MAX_FITTED:
            wanted = np.sort(np.random.default_rng(self._plan.seed).choice(num_rows, MAX_FITTED, replace=False))
        taken, start = [], 0
        for key, rows in keys:
            first, last = np.searchsorted(wanted, (start, start + len(rows)))
            if first < last:
                taken.append(self._rows(key, len(rows))[wanted[first:last] - start])
            start += len(rows)
        return np.concatenate(taken)

    def _rows(self, key: str, num_rows: int) -> NDArray[np.float16]:
        rows = self._parts.get(key, (num_rows, self._modality.encoder.width))
        assert rows is not None, "written or checked by this run, under the lock of the folder"
        return rows
