"""Writing of versions, and their scores by torch; `trainer.versions.artifact` reads them without it.

Source: docs/adr/0012-artifact-format.md.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ArtifactError
from stream.failpoints import Failpoint, no_failpoint
from trainer.features import Batch
from trainer.features.id_maps import IdMaps
from trainer.models import MODELS, ModelConfig, golden_scores, to_torch
from trainer.models.unique_rows import gather_unique_rows
from trainer.versions import atomic_folder, golden_ids, table_delta, version_graphs
from trainer.versions.artifact import GOLDEN_SESSIONS, ROWS_PREFIX, LoadedVersion, Manifest, check_golden
from trainer.versions.atomic_folder import FileEntry
from trainer.versions.int8 import Limits
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.table_delta import Slots


def publish(
    folder: Path,
    manifest: Manifest,
    params: Mapping[str, Tensor],
    id_maps: IdMaps,
    golden: Batch,
    *,
    changed: Slots | None = None,
    rows_dtype: torch.dtype = torch.float32,
    with_graph: bool = False,
    int8: Limits | None = None,
    keys: VersionKeys = NO_KEYS,
    failpoint: Failpoint = no_failpoint,
) -> str:
    """Write a version and return its address.

    The golden scores are computed from the values as they are written, so a narrower `rows_dtype` is no difference.

    Args:
        folder: Folder of the versions.
        manifest: The manifest, without the files.
        params: All weights by name.
        id_maps: Rows of the ids.
        golden: Sessions to be scored; the first 64 are kept.
        changed: Slots by table that hold all changes since `manifest.base`, ascending; None if there is no base.
        rows_dtype: Number format of embedding rows.
        with_graph: Whether to add the graph for ONNX Runtime, if the model has one whose scores are those of torch.
        int8: Limits within which an int8 graph is added to the graph; None adds none.
        keys: Keys, the first of which signs the version.
        failpoint: Called with the name of each step, for crash tests.

    Raises:
        ArtifactError: If a weight or a golden score is not finite; nothing is visible then.
    """
    if (changed is None) != (manifest.base is None):
        raise ValueError("changed slots and the base that they changed since go together")
    written = {
        name: _as_written(name, weight, rows_dtype) for name, weight in _rows_only(params, changed or {}).items()
    }
    for name, tensor in written.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"lineage {manifest.lineage}: {name} holds NaN or infinity, not published")
    config = msgspec.convert(manifest.config, MODELS[manifest.model].config_class)
    small = Batch(**{name: column[:GOLDEN_SESSIONS] for name, column in golden._asdict().items()})
    touched, local, slots = _touched(params, small, rows_dtype)
    scores = _scores(manifest.model, config, touched, local)
    if not np.isfinite(scores[small.cand_mask]).all():
        raise ArtifactError(f"lineage {manifest.lineage}: golden scores hold NaN or infinity, not published")
    rows = {name: tensor.numpy() for name, tensor in written.items() if name.startswith(ROWS_PREFIX)}
    files: dict[str, atomic_folder.Tensors] = {
        "dense": {name: tensor.numpy() for name, tensor in written.items() if name not in rows},
        **_table_files(rows, id_maps, changed),
        "golden": {
            **small._asdict(),
            "scores": np.where(small.cand_mask, scores, np.float32(0)),
            **golden_ids.tensors_of(slots, id_maps),
        },
    }
    metrics = manifest.metrics
    if with_graph:
        graphs = version_graphs.make(manifest, config, touched, local, scores, int8=int8)
        files["golden"] = {**files["golden"], **graphs.tensors}
        metrics = metrics | graphs.metrics

    def complete(entries: dict[str, FileEntry]) -> Manifest:
        return msgspec.structs.replace(manifest, metrics=metrics, files=entries)

    return atomic_folder.write(folder, files, complete, failpoint, sign=keys.sign).name


def verify_golden(version: LoadedVersion) -> float:
    """Score the golden set and return the largest difference from the trainer's scores.

    Raises:
        ArtifactError: As `check_golden`.
    """
    return check_golden(version, lambda batch: _scores(version.model_name, version.config, version.params, batch))


def _as_written(name: str, weight: Tensor, rows_dtype: torch.dtype) -> Tensor:
    return weight.detach().cpu().to(rows_dtype if name.startswith(ROWS_PREFIX) else weight.dtype)


def _touched(
    params: Mapping[str, Tensor], batch: Batch, rows_dtype: torch.dtype
) -> tuple[dict[str, Tensor], Batch, Slots]:
    """Return the weights that a batch touches, with the values as written, the batch by them, and their slots."""
    local, slots, _ = gather_unique_rows(batch)
    own = _rows_only(params, slots)
    return {name: _as_written(name, weight, rows_dtype).float() for name, weight in own.items()}, local, slots


def _rows_only(params: Mapping[str, Tensor], slots: Slots) -> dict[str, Tensor]:
    """Return the weights, with only these rows of the tables that `slots` names."""
    found = dict(params)
    for table, own in slots.items():
        weight = params[f"{ROWS_PREFIX}{table}"]
        found[f"{ROWS_PREFIX}{table}"] = weight.detach()[torch.from_numpy(own).to(weight.device)]
    return found


def _table_files(
    rows: atomic_folder.Tensors, id_maps: IdMaps, changed: Slots | None
) -> dict[str, atomic_folder.Tensors]:
    if changed is None:
        return {"rows": rows, "ids": id_maps.to_arrays(counts=False)}
    return table_delta.to_files({name.removeprefix(ROWS_PREFIX): own for name, own in rows.items()}, id_maps, changed)


def _scores(model: str, config: ModelConfig, params: Mapping[str, Tensor], batch: Batch) -> NDArray[np.float32]:
    with torch.no_grad():
        scores = golden_scores(MODELS[model].forward(config, params, to_torch(batch)))
    return scores.float().cpu().numpy()
