"""The version that a new lineage starts from: found by lineage and number, and compared with the new lineage's model.

Source: docs/training.md, "Start from a version of another lineage".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from stream.errors import ConfigError
from stream.schemas.names import check_name
from stream.setting_fields import values_by_key
from trainer.configs import ModelConfig
from trainer.versions import artifact, checkpoint
from trainer.versions.checkpoint import Origin
from trainer.versions.registry import Registry, Version
from trainer.versions.signature import NO_KEYS, VersionKeys

MAY_DIFFER: Final = (
    *("main_loss", "clicked_weight", "aux_weight", "pcvr_weight", "pcvr_delayed"),
    *("teachers", "consistency", "consistency_form", "margin", "tanh_squash"),
    *("grade_weight", "grade_passes", "anchor_weight"),
)
"""Settings of `[model]` that choose what is learned: the same weights go on under other values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The name of a version: a lineage, and a number or None for its live version."""

    lineage: str
    version: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `LINEAGE` or `LINEAGE:VERSION` names.

        Raises:
            ConfigError: If the lineage is no name, or the version no number above 0.

        >>> Wanted.parse("armmt:12")
        Wanted(lineage='armmt', version=12)
        """
        name, colon, number = text.partition(":")
        check_name("--warm-start lineage", name)
        if colon and not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ConfigError(f"--warm-start {text[:80]}: version '{number[:80]}': expected a number above 0")
        return cls(lineage=name, version=int(number) if colon else None)

    def __str__(self) -> str:
        return self.lineage if self.version is None else f"{self.lineage}:{self.version}"

    def names(self, origin: Origin) -> bool:
        """Return whether this may have named that version; a lineage alone names each of its versions."""
        return self.lineage == origin.lineage and self.version in (None, origin.version)


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
        if state.origin is None or not wanted.names(state.origin):
            start = "fresh weights" if state.origin is None else f"version {state.origin}"
            raise ConfigError(
                f"--warm-start {wanted}: lineage {state.lineage} has a checkpoint and started from {start};"
                " a warm start needs a new lineage"
            )
        return None
    version = _version(wanted, registry)
    manifest = artifact.read_manifest(versions, version.artifact, keys)
    if manifest.model != model:
        raise ConfigError(f"--warm-start {wanted}: trainer.model is {manifest.model!r} there and {model!r} here")
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
        raise ConfigError(f"--warm-start {wanted}: {', '.join(differences)}")
    return Origin(
        lineage=version.lineage, version=version.version, artifact=version.artifact, boundary_ts=manifest.boundary_ts
    )


def _version(wanted: Wanted, registry: Registry) -> Version:
    if wanted.version is None:
        live = registry.live(wanted.lineage)
        if live is None:
            raise ConfigError(f"--warm-start {wanted}: lineage {wanted.lineage} has no live version")
        return live
    found = {version.version: version for version in registry.versions(wanted.lineage)}
    version = found.get(wanted.version)
    if version is None:
        known = f"its versions are {min(found)} to {max(found)}" if found else "it has no versions"
        raise ConfigError(f"--warm-start {wanted}: lineage {wanted.lineage} has no version {wanted.version}; {known}")
    if version.is_gone:
        raise ConfigError(f"--warm-start {wanted}: version {wanted.version} is {version.status}")
    return version
