"""The version that a new lineage starts from: found by lineage and number, and compared with the new lineage's model.

Source: docs/training.md, "Start from a version of another lineage".
"""

from pathlib import Path
from typing import Final

from stream.errors import ConfigError
from stream.setting_fields import values_by_key
from trainer.configs import ModelConfig
from trainer.versions import artifact, checkpoint
from trainer.versions.checkpoint import Origin
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.wanted import Wanted

MAY_DIFFER: Final = (
    *("main_loss", "clicked_weight", "aux_weight", "pcvr_weight", "pcvr_delayed"),
    *("teachers", "consistency", "consistency_form", "margin", "tanh_squash"),
    *("grade_weight", "grade_passes", "anchor_weight"),
)
"""Settings of `[model]` that choose what is learned: the same weights go on under other values."""


def find(
    wanted: Wanted,
    model: str,
    config: ModelConfig,
    *,
    registry: Registry,
    versions: Path,
    checkpoints: Path,
    keys: VersionKeys = NO_KEYS,
) -> Origin | None:
    """Return the version that a lineage with this model starts from; None if it has done so already.

    Args:
        wanted: The version.
        model: Name of the new lineage's model.
        config: Settings of the new lineage's model.
        registry: Record of the versions.
        versions: Folder of the versions.
        checkpoints: Folder of the new lineage's checkpoints.
        keys: Keys of the signatures of versions.

    Raises:
        ConfigError: If the lineage has a checkpoint that started otherwise, the version is unknown or gone, or its
            model is another one.
        ArtifactError: If the manifest of the version is missing, damaged, foreign or not signed.
        StoreError: If the database is unreachable or refused.
    """
    state = checkpoint.newest_state(checkpoints)
    if state is not None:
        if state.origin is None or not _names(wanted, state.origin):
            start = "fresh weights" if state.origin is None else f"version {state.origin}"
            raise ConfigError(
                f"{wanted}: lineage {state.lineage} has a checkpoint and started from {start};"
                " a warm start needs a new lineage"
            )
        return None
    version = wanted.find(registry)
    manifest = artifact.read_manifest(versions, version.artifact, keys)
    if manifest.model != model:
        raise ConfigError(f"{wanted}: trainer.model is {manifest.model!r} there and {model!r} here")
    there = values_by_key("model", artifact.config_of(manifest, version.artifact))
    here = values_by_key("model", config)
    differences = [
        f"{key} is {there.get(key)!r} there and {value!r} here"
        for key, value in here.items()
        if there.get(key) != value
        and not key.startswith("model.vocabulary.")
        and key.removeprefix("model.") not in MAY_DIFFER
    ]
    if differences:
        raise ConfigError(f"{wanted}: {', '.join(differences)}")
    return Origin(
        lineage=version.lineage, version=version.version, artifact=version.artifact, boundary_ts=manifest.boundary_ts
    )


def _names(wanted: Wanted, origin: Origin) -> bool:
    """Return whether the option may have named that version; a lineage alone names each of its versions."""
    return wanted.lineage == origin.lineage and wanted.version in (None, origin.version)
