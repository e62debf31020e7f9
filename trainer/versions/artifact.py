"""Versions on disk: written once under the sha256 of their manifest, verified in full before use, never pickle.

A full version holds all rows of the id tables, a delta those that changed since a full version, its base. The rest,
such as dense weights, is in both.

Source: docs/adr/0012-artifact-format.md.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError, SchemaError
from trainer.configs import MODEL_PROFILES, ModelConfig
from trainer.features import Batch, batch_from_columns, schema_of
from trainer.features.id_maps import IdMaps
from trainer.feed.merge import Cursor
from trainer.versions import atomic_folder, golden_ids, table_delta
from trainer.versions.atomic_folder import FileEntry
from trainer.versions.checkpoint import Adoption, Origin
from trainer.versions.delta import PLACES
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.table_delta import Slots

if TYPE_CHECKING:
    from torch import Tensor

ROWS_PREFIX = "rows."
GOLDEN_SESSIONS = 64
GRAPH = "graph"
INT8_GRAPH = "graph_int8"
"""Names of the graphs' bytes in the file `golden`, where releases without graphs pass them over."""
GOLDEN_TOLERANCE = 1e-4
_ADDRESS = re.compile("[0-9a-f]{64}")
_FORMAT = 3
_FORMAT_WITHOUT_BASE = 2
_FILES = frozenset({"dense", "rows", "ids", "golden"})
_DTYPES = {"dense": ("float32",), "rows": ("float16", "float32"), "ids": ("uint64",)}
_PLACES_DTYPES = ("int64",)


class Manifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Identity, origin and files of a version.

    Attributes:
        parent: Address of the version before it.
        base: Address of the full version whose rows and ids a delta leaves out; None for a full version.
        term: Lease term of the writer.
        model, profile, config: Name in `trainer.models.MODELS`, and the configuration's values.
        learning: Settings of learning, by name.
        adopted: Learning settings that were changed since the lineage began, oldest first.
        origin: The version of a lineage that this lineage started from; None for fresh weights.
        architecture: Hash of model name and configuration without the sizes of the id tables.
        image_space, text_space: Vector spaces of the catalogue it was trained with.
        cursors: Partition of `sessions` to its cursor.
        boundary_ts: The checkpoint boundary at which it was written, in watermark time.
        capacities: Rows of each id table.
        num_sessions: Sessions trained since the lineage began.
    """

    format: int = _FORMAT
    lineage: str
    version: int
    parent: str | None
    base: str | None = None
    term: int
    model: str
    profile: str
    config: dict[str, object]
    learning: dict[str, object]
    adopted: tuple[Adoption, ...] = ()
    origin: Origin | None = None
    architecture: str
    feature_schema: str
    image_space: str | None
    text_space: str | None
    cursors: dict[int, Cursor]
    boundary_ts: int
    metrics: dict[str, float]
    capacities: dict[str, int]
    num_sessions: int
    code_version: str
    files: dict[str, FileEntry] = {}


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class LoadedVersion:
    """A version in memory, verified byte by byte.

    Attributes:
        weights: All weights by name.
        changed: Slots by table in which a delta may differ from its base; empty for a full version.
        golden: Sessions as the trainer saw them, and `golden_scores` the logits [B,n] it gave them.
        graph: The graph of `trainer.versions.graph`, if the version has one.
        int8_graph: The graph with int8 weights of `trainer.versions.int8_export`, if the version has one.
    """

    sha256: str
    manifest: Manifest
    model_name: str
    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]
    id_maps: IdMaps
    changed: Slots
    golden: Batch
    golden_scores: NDArray[np.float32]
    graph: bytes | None = None
    int8_graph: bytes | None = None
    _params: "dict[str, Tensor]" = field(default_factory=dict, repr=False, compare=False)

    @property
    def params(self) -> "dict[str, Tensor]":
        """Return the weights as tensors that share their memory; imports torch."""
        if not self._params:
            from trainer.models.batch import tensors_of

            self._params.update(tensors_of(self.weights))
        return self._params

    def drop_dense(self) -> None:
        """Let go of the dense weights, once a runtime has copied them; deltas need the rows of the tables alone."""
        for name in [name for name in self.weights if not name.startswith(ROWS_PREFIX)]:
            del self.weights[name]


def is_address(text: str) -> bool:
    """Return whether `text` is a version's address: 64 lower-case hexadecimal digits and nothing else."""
    return _ADDRESS.fullmatch(text) is not None


def read_manifest(folder: Path, sha256: str, keys: VersionKeys = NO_KEYS) -> Manifest:
    """Return the verified manifest of a version, without reading its weights.

    Args:
        folder: Folder of the versions.
        sha256: Address of the version.
        keys: Keys of signatures; without keys none is asked for.

    Raises:
        ArtifactError: If the address is none, the manifest is missing, damaged or foreign, or its signature is missing
            or wrong.
    """
    if not is_address(sha256):
        raise ArtifactError(f"'{sha256[:80]}' is no address: expected 64 lower-case hexadecimal digits")
    try:
        raw = atomic_folder.read_manifest(folder / sha256)
        if keys:
            keys.check(sha256, raw, atomic_folder.read_signature(folder / sha256))
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{sha256}/{atomic_folder.MANIFEST}: {error}") from error
    if manifest.format not in (_FORMAT_WITHOUT_BASE, _FORMAT):
        raise ArtifactError(
            f"{sha256}: format {manifest.format}, this release reads formats {_FORMAT_WITHOUT_BASE} and {_FORMAT}"
        )
    if manifest.base is not None and manifest.format == _FORMAT_WITHOUT_BASE:
        raise ArtifactError(f"{sha256}: format {manifest.format} knows no base")
    if manifest.base is not None and not is_address(manifest.base):
        raise ArtifactError(f"{sha256}: base '{manifest.base[:80]}' is no address")
    if manifest.model not in MODEL_PROFILES or set(manifest.files) != _FILES:
        raise ArtifactError(f"{sha256}: model '{manifest.model}' or its files are unknown")
    return manifest


def size(folder: Path, sha256: str) -> int:
    """Return the bytes of a version's files, without the manifest and without a delta's base.

    Raises:
        ArtifactError: As `read_manifest`.
    """
    return sum(entry.size for entry in read_manifest(folder, sha256).files.values())


def config_of(manifest: Manifest, sha256: str) -> ModelConfig:
    """Return the model's configuration in the manifest of the version at `sha256`.

    Raises:
        ArtifactError: If the feature schema or a setting is unknown, or a value does not fit.
    """
    try:
        # Versions of schema 1 were written before the schema was a setting: the manifest's hash decides.
        number = schema_of(manifest.feature_schema).number
        return msgspec.convert(
            {"feature_schema": number, **manifest.config}, type(MODEL_PROFILES[manifest.model]["full"])
        )
    except SchemaError as error:
        raise ArtifactError(f"{sha256}: {error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ArtifactError(f"{sha256}: {error!r}") from error


def load(folder: Path, sha256: str, held: Iterable[LoadedVersion] = (), keys: VersionKeys = NO_KEYS) -> LoadedVersion:
    """Return a version after checking its signature, and every hash, name, dtype, shape and number.

    Args:
        folder: Folder of the versions.
        sha256: Address of the version.
        held: Versions in memory. If a delta can be put into a copy of one of them, its base is not read.
        keys: Keys of signatures; without keys none is asked for.

    Raises:
        ArtifactError: If anything is missing, surplus, a link, damaged, foreign, not finite or not signed, in a delta's
            base too.
    """
    manifest = read_manifest(folder, sha256, keys)
    files = atomic_folder.read_files(folder / sha256, manifest.files)
    _check_dtypes(sha256, files)
    config = config_of(manifest, sha256)
    try:
        golden = batch_from_columns(files["golden"])
        scores = files["golden"]["scores"].astype(np.float32)
        graph, int8_graph = (files["golden"].get(name) for name in (GRAPH, INT8_GRAPH))
    except (KeyError, ValueError, IndexError) as error:
        raise ArtifactError(f"{sha256}: {error!r}") from error
    if scores.shape != golden.cand_mask.shape:
        raise ArtifactError(
            f"{sha256}: {scores.shape} golden scores, for lists and candidates {golden.cand_mask.shape}"
        )
    try:
        rows, id_maps, changed = _tables(folder, manifest, files, held, keys)
        golden_ids.check(files["golden"], id_maps)
    except (ArtifactError, KeyError) as error:
        raise ArtifactError(f"{sha256}: {error}") from error
    return LoadedVersion(
        sha256=sha256,
        manifest=manifest,
        model_name=manifest.model,
        config=config,
        weights={**files["dense"], **rows},  # type: ignore[dict-item]
        id_maps=id_maps,
        changed=changed,
        golden=golden,
        golden_scores=scores,
        graph=None if graph is None else graph.tobytes(),
        int8_graph=None if int8_graph is None else int8_graph.tobytes(),
    )


def _check_dtypes(sha256: str, files: Mapping[str, atomic_folder.Tensors]) -> None:
    """Refuse numbers of another kind, which a conversion would change without a word."""
    for file, usual in _DTYPES.items():
        for name, array in files[file].items():
            allowed = _PLACES_DTYPES if name.endswith(f".{PLACES}") else usual
            if array.dtype.name not in allowed:
                raise ArtifactError(f"{sha256}: {file} holds {name} as {array.dtype}, expected {' or '.join(allowed)}")


def _tables(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, atomic_folder.Tensors],
    held: Iterable[LoadedVersion],
    keys: VersionKeys,
) -> tuple[dict[str, NDArray[np.float32]], IdMaps, Slots]:
    """Return a version's rows by name of the weight, its ids, and the slots that differ from its base."""
    if manifest.base is None:
        sizes = {name.removeprefix(ROWS_PREFIX): len(array) for name, array in files["rows"].items()}
        # Before the id maps take the memory of a capacity.
        if sizes != manifest.capacities:
            raise ArtifactError(f"capacities {manifest.capacities}, tables of {sizes} rows")
        rows = {name: array.astype(np.float32) for name, array in files["rows"].items()}
        return rows, IdMaps.from_arrays(files["ids"], manifest.capacities), {}
    changed = table_delta.slots_of(files)
    near = next((version for version in held if _holds_the_rest(version, manifest, changed)), None)
    full = near or _base_of(folder, manifest, manifest.base, keys)
    tables = {table: full.weights[f"{ROWS_PREFIX}{table}"] for table in changed}
    found, id_maps = table_delta.put_in(tables, full.id_maps, files, in_place=near is None)
    return {f"{ROWS_PREFIX}{table}": rows for table, rows in found.items()}, id_maps, changed


def _holds_the_rest(version: LoadedVersion, manifest: Manifest, changed: Slots) -> bool:
    """Return whether a version has the rows and ids of the delta's base wherever the delta has none."""
    of = version.manifest
    if manifest.base not in (version.sha256, of.base) or not _are_alike(of, manifest):
        return False
    return all(np.isin(slots, changed[table]).all() for table, slots in version.changed.items())


def _base_of(folder: Path, manifest: Manifest, address: str, keys: VersionKeys) -> LoadedVersion:
    try:
        base = read_manifest(folder, address, keys)
        is_base = base.base is None and _are_alike(base, manifest)
        version = load(folder, address, keys=keys) if is_base else None
    except ArtifactError as error:
        raise ArtifactError(f"its base is refused: {error}") from error
    if version is None:
        raise ArtifactError(f"its base {address} is no full version of {manifest.model} with tables of its size")
    return version


def _are_alike(one: Manifest, other: Manifest) -> bool:
    return (one.model, one.capacities) == (other.model, other.capacities)


def check_golden(version: LoadedVersion, score: Callable[[Batch], NDArray[np.float32]]) -> float:
    """Return the largest difference between a runtime's scores of the golden set and the trainer's scores.

    Args:
        version: The version.
        score: Scores a batch with the version's weights in the runtime under test.

    Raises:
        ArtifactError: If the difference exceeds 1e-4, a weight is missing or has a wrong shape, or the golden set
            has no candidate.
    """
    if not version.golden.cand_mask.any():
        raise ArtifactError(f"{version.sha256}: the golden set has no candidate, so it shows nothing")
    try:
        scores = score(version.golden)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ArtifactError(f"{version.sha256}: golden sessions cannot be scored: {error!r}") from error
    difference = np.abs(scores - version.golden_scores)[version.golden.cand_mask]
    worst = float(difference.max())
    if not worst <= GOLDEN_TOLERANCE:
        raise ArtifactError(f"{version.sha256}: golden scores differ by {worst:.2e}, allowed {GOLDEN_TOLERANCE:.0e}")
    return worst
