"""Publication of a written version: registry row, checks, live, announcement, and removal of what is too old.

Each step may be repeated after a crash.

Source: docs/training.md.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from stream.errors import ArtifactError, ConfigError
from stream.failpoints import Failpoint, no_failpoint
from stream.schemas.events import ModelVersionAnnouncement
from stream.schemas.times import DAY_MS
from trainer.versions import artifact, removal, writing
from trainer.versions.registry import Registry, Rewind, Version
from trainer.versions.signature import NO_KEYS, VersionKeys

Announce = Callable[[ModelVersionAnnouncement], None]
Clock = Callable[[], int]

ORPHAN_AGE_MS = DAY_MS
_log = logging.getLogger(__name__)


class Gating(NamedTuple):
    """The state of a rollout that a trainer follows.

    Attributes:
        is_gated: Whether versions go live by gates.
        live: Number of the live version, if any.
        drill_version: Number of the version that learns flipped labels; 0 for none.
    """

    is_gated: bool
    live: int | None
    drill_version: int = 0


class Publisher:
    """The publication of one lineage's versions under one lease term.

    Args:
        registry: Record of the versions.
        folder: Folder of the versions, shared by all lineages.
        lineage: Name of the lineage.
        term: Term of the lease that this writer holds.
        announce: Sends the hint to servers.
        now_ms: Clock for the registry's times.
        keep_versions: Newest versions that stay on disk.
        keys: Keys of the signatures of versions.
        failpoint: Called with the name of each step, for crash tests.
    """

    def __init__(
        self,
        registry: Registry,
        folder: Path,
        lineage: str,
        term: int,
        *,
        announce: Announce,
        now_ms: Clock,
        keep_versions: int,
        failpoint: Failpoint = no_failpoint,
        keys: VersionKeys = NO_KEYS,
    ) -> None:
        self._registry = registry
        self.folder = folder
        self.lineage = lineage
        self.term = term
        self._announce = announce
        self.now_ms = now_ms
        self._keep_versions = keep_versions
        self._failpoint = failpoint
        self.keys = keys

    def versions(self) -> list[Version]:
        """Return the versions of the lineage, oldest first."""
        return self._registry.versions(self.lineage)

    def newest_number(self) -> int:
        """Return the highest version number recorded, 0 without any."""
        return max((version.version for version in self.versions()), default=0)

    def rewind(self) -> Rewind | None:
        """Return what a rollback demands of training; None without a demand."""
        return self._registry.rewind(self.lineage)

    def record_rewound(self, rewind: Rewind, evidence: Mapping[str, object]) -> None:
        """Append the event that training goes on from the last good version.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If the database is unreachable or refused.
        """
        self._registry.record_rewound(self.lineage, self.term, rewind, evidence, self.now_ms())

    def gating(self) -> Gating:
        """Return what the policy and the live version of the lineage mean for its trainer.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        live = (version.version for version in self.versions() if version.status == "live")
        policy = self._registry.policy(self.lineage)
        return Gating(policy.mode == "gated", next(live, None), policy.drill_version)

    def check_trusted(self, sha256: str, checkpoints: Path) -> None:
        """Refuse to train on from a version that was rolled back or quarantined.

        Args:
            sha256: Version that the checkpoint to resume from belongs to.
            checkpoints: Folder of the checkpoints, for the message.

        Raises:
            ConfigError: If it was; the message says how to start again.
            StoreError: If the database is unreachable or refused.
        """
        found = next((each for each in self.versions() if each.artifact == sha256), None)
        if found is not None and found.status in {"rolled_back", "quarantined"}:
            raise ConfigError(
                f"lineage {self.lineage}: the newest checkpoint belongs to version {found.version}, which is"
                f" {found.status}; move {checkpoints} away and start with --warm-start {self.lineage}"
            )

    def recoverable(self) -> set[str]:
        """Return the addresses of the versions that training may have to go back to.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        return self._registry.recoverable(self.lineage)

    def register(self, sha256: str) -> bool:
        """Verify the version at `sha256` and make it live, then delete versions beyond the retention.

        Where versions go live by gates, or the lineage is locked, it stays verified.

        Returns whether it verified, now or in an earlier call.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If the database is unreachable or refused; call again.
            ArtifactError: If the version does not verify; it is recorded as rejected.
        """
        manifest = artifact.read_manifest(self.folder, sha256)
        number = manifest.version
        status = self._status(number)
        if status is None:
            self._failpoint("before_row")
            status = self._registry.publish(
                self.lineage,
                number,
                sha256,
                parent=manifest.parent,
                term=self.term,
                metrics=dict(manifest.metrics),
                offsets={str(partition): cursor.next_offset for partition, cursor in manifest.cursors.items()},
                published_ts=self.now_ms(),
            )
            self._failpoint("after_row")
        if status == "published":
            try:
                worst = writing.verify_golden(artifact.load(self.folder, sha256, keys=self.keys))
            except ArtifactError as error:
                self._registry.advance(
                    self.lineage, number, self.term, to_status="rejected", why=str(error), now_ms=self.now_ms()
                )
                raise
            why = f"integrity and golden sessions, largest difference {worst:.1e}"
            self._registry.advance(self.lineage, number, self.term, to_status="verified", why=why, now_ms=self.now_ms())
            self._failpoint("after_verified")
            status = "verified"
        if status == "verified" and self._registry.advance(
            self.lineage, number, self.term, to_status="live", why="checks passed", now_ms=self.now_ms()
        ):
            self._failpoint("after_live")
            status = "live"
        if status == "live":
            self._announce(
                ModelVersionAnnouncement(
                    lineage=self.lineage, version=number, artifact=sha256, published_ts=self.now_ms()
                )
            )
        self._retire()
        return status != "rejected"

    def _retire(self) -> None:
        """Mark versions beyond the retention as retired in the registry, then remove their folders."""
        kept = self._registry.kept(self.lineage, self._keep_versions)
        try:
            needed = removal.bases(self.folder, _usable(kept))
        except OSError as error:
            # A full version that others need must not go because the disk does not answer for a while.
            _log.warning("no version of %s is removed: %s", self.lineage, error)
            return
        for version in self._registry.retire(self.lineage, self._keep_versions, self.term, self.now_ms(), needed):
            self._failpoint("after_retired")
            try:
                removal.remove(self.folder, version.artifact)
            except OSError as error:
                _log.warning("version %d of %s not removed from disk: %s", version.version, self.lineage, error)

    def remove_orphans(self) -> None:
        """Remove folders older than a day that no version names: leftovers of crashed publications and removals.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        versions = self._registry.versions()
        keep = {version.artifact for version in versions if version.status != "retired"}
        try:
            keep |= removal.bases(self.folder, _usable(versions))
            removed = removal.remove_orphans(self.folder, keep, (self.now_ms() - ORPHAN_AGE_MS) / 1000)
        except OSError as error:
            _log.warning("orphans of %s not removed: %s", self.folder, error)
            return
        if removed:
            _log.info("removed from %s: %s", self.folder, ", ".join(removed))

    def _status(self, number: int) -> str | None:
        found = [version.status for version in self._registry.versions(self.lineage) if version.version == number]
        return found[0] if found else None


def _usable(versions: Iterable[Version]) -> list[str]:
    return [version.artifact for version in versions if not version.is_gone]
