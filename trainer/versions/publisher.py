"""Makes a written version known: registry row, checks, live, announcement; each step may be repeated after a crash.

Source: TRAINING_SERVING.md 6 (publish), 7 (gates 1 and 2).
"""

from collections.abc import Callable
from pathlib import Path

from stream.errors import ArtifactError
from stream.schemas.events import ModelVersionAnnouncement
from trainer.versions import artifact, atomic_folder
from trainer.versions.atomic_folder import Failpoint
from trainer.versions.registry import Registry

Announce = Callable[[ModelVersionAnnouncement], None]
Clock = Callable[[], int]


class Publisher:
    """Registers the versions of one lineage under one lease term.

    Args:
        registry: Where versions are recorded.
        folder: Where versions are written.
        lineage: Its name.
        term: Term of the lease this writer holds.
        announce: Sends the hint to servers.
        now_ms: Clock for the registry's times.
        failpoint: Called with the name of each step, for crash tests.
    """

    def __init__(
        self,
        registry: Registry,
        folder: Path,
        lineage: str,
        term: int,
        announce: Announce,
        now_ms: Clock,
        failpoint: Failpoint = atomic_folder.no_failpoint,
    ) -> None:
        self._registry = registry
        self.folder = folder
        self.lineage = lineage
        self.term = term
        self._announce = announce
        self._now_ms = now_ms
        self._failpoint = failpoint

    def newest_number(self) -> int:
        """Return the highest version number recorded, 0 without any."""
        return max((version.version for version in self._registry.versions(self.lineage)), default=0)

    def register(self, sha256: str) -> None:
        """Bring the version at `sha256` to live; only the announcement is ever repeated.

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
            self._registry.publish(
                self.lineage,
                number,
                sha256,
                manifest.parent,
                self.term,
                dict(manifest.metrics),
                {partition: cursor.next_offset for partition, cursor in manifest.cursors.items()},
                self._now_ms(),
            )
            self._failpoint("after_row")
            status = "published"
        if status == "published":
            try:
                worst = artifact.verify_golden(artifact.load(self.folder, sha256))
            except ArtifactError as error:
                self._registry.advance(self.lineage, number, self.term, "rejected", str(error)[:255], self._now_ms())
                raise
            why = f"integrity and golden sessions, largest difference {worst:.1e}"
            self._registry.advance(self.lineage, number, self.term, "verified", why, self._now_ms())
            self._failpoint("after_verified")
            status = "verified"
        if status == "verified":
            self._registry.advance(self.lineage, number, self.term, "live", "checks passed", self._now_ms())
            self._failpoint("after_live")
            status = "live"
        if status == "live":
            self._announce(
                ModelVersionAnnouncement(
                    lineage=self.lineage, version=number, artifact=sha256, published_ts=self._now_ms()
                )
            )

    def _status(self, number: int) -> str | None:
        found = [version.status for version in self._registry.versions(self.lineage) if version.version == number]
        return found[0] if found else None
