"""Assignment of clients to the arms of the running experiment.

The experiment is polled from the database and copied to a local file, so that a process can start without the database.

Source: docs/experiments.md, docs/serving.md.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from abtest import buckets
from abtest.experiment import INCOMING_ORDER, ActiveExperiment, Arm
from stream.errors import SchemaError, StoreError
from stream.files import PRIVATE_FILE, replace_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAssignment:
    """The arm of a client, and the lineage or fixed policy that answers.

    Attributes:
        layer: Layer of the experiment, None outside of it.
        experiment: Name of the experiment, None for clients outside of it.
        arm: Name of the arm inside the experiment.
        epoch: Period of constant allocation.
        bucket: The client's bucket in the layer, None while no experiment runs.
        lineage: Lineage whose live version scores; None if a fixed policy answers.
        policy: `incoming_order` or `shuffle`; used only without a lineage.
    """

    layer: str | None = None
    experiment: str | None = None
    arm: str | None = None
    epoch: int | None = None
    bucket: int | None = None
    lineage: str | None = None
    policy: str = INCOMING_ORDER


class ExperimentStore(Protocol):
    """The part of `abtest.store.ExperimentStore` that serving uses."""

    def active(self, layer: str) -> ActiveExperiment | None:
        """Return the running experiment of a layer."""
        ...


class Assigner:
    """The running experiment of one layer, and the arm that it gives each client.

    Guarantees: the same client and allocation always give the same assignment. If the database is unreachable, the last
    known experiment stays.
    """

    def __init__(
        self, store: ExperimentStore | None, *, layer: str, default_lineage: str | None, copy_path: Path
    ) -> None:
        """Prepare an assigner without an experiment.

        Args:
            store: The experiments in the database; None works from the local copy alone.
            layer: The layer of this service.
            default_lineage: Lineage of clients outside of the experiment; None gives them the incoming order.
            copy_path: File of the local copy.
        """
        self._store = store
        self._layer = layer
        self._default_lineage = default_lineage
        self._copy_path = copy_path
        self._is_unavailable = self._is_copy_refused = False
        self._found: ActiveExperiment | None = None
        self._saved: tuple[str, int, str] | None = None
        self.active: ActiveExperiment | None = None

    def load_copy(self) -> None:
        """Take the experiment from the local copy; a damaged copy is logged and ignored."""
        try:
            self.active = self._found = load(self._copy_path)
            self._saved = _identity(self.active)
        except SchemaError as error:
            _log.warning("the local copy of the experiment is ignored: %s", error)

    def look(self) -> bool:
        """Read the running experiment once, and return whether the database answered; `adopt` puts it into use."""
        if self._store is None:
            return False
        try:
            self._found = self._store.active(self._layer)
        except StoreError as error:
            if not self._is_unavailable:
                _log.warning("experiments are unavailable, the allocation in memory stays: %s", error)
            self._is_unavailable = True
            return False
        self._is_unavailable = False
        return True

    def adopt(self) -> None:
        """Assign clients by the experiment that was read last."""
        found = self._found
        if _identity(found) != _identity(self.active):
            self.active = found
            _log.info("experiment: %s", f"{found.experiment}, epoch {found.epoch}" if found else "none")
        if _identity(found) != self._saved:
            try:
                save(found, self._copy_path)
                self._saved, self._is_copy_refused = _identity(found), False
            except OSError as error:
                if not self._is_copy_refused:
                    _log.warning("a start without the database would use an older allocation: %s", error)
                self._is_copy_refused = True

    def lineages(self) -> list[str]:
        """Return the lineages that clients can be assigned to, now or once `adopt` is called."""
        arms = [arm for each in (self.active, self._found) if each for arm in each.arms]
        return sorted({lineage for lineage in (self._default_lineage, *(arm.lineage for arm in arms)) if lineage})


class _Copy(Struct, kw_only=True, frozen=True):
    experiment: str
    layer: str
    salt: str
    epoch: int
    arms: tuple[Arm, ...]
    table: bytes
    sha256: str


def assignment_of(client_id: str, active: ActiveExperiment | None, default_lineage: str | None) -> ClientAssignment:
    """Return the assignment of a client in an experiment; clients outside of it get the default lineage."""
    if active is None:
        return ClientAssignment(lineage=default_lineage)
    bucket, arm = active.assign(client_id)
    if arm is None:
        return ClientAssignment(bucket=bucket, lineage=default_lineage)
    return ClientAssignment(
        layer=active.layer,
        experiment=active.experiment,
        arm=arm.name,
        epoch=active.epoch,
        bucket=bucket,
        lineage=arm.lineage,
        policy=arm.policy or INCOMING_ORDER,
    )


def save(active: ActiveExperiment | None, path: Path) -> None:
    """Write the experiment to a file, or delete the file if there is no experiment."""
    if active is None:
        path.unlink(missing_ok=True)
        return
    copy = _Copy(
        experiment=active.experiment,
        layer=active.layer,
        salt=active.salt,
        epoch=active.epoch,
        arms=active.arms,
        table=buckets.to_bytes(active.table),
        sha256=active.sha256,
    )
    # The salt tells everybody's arm.
    replace_file(path, msgspec.json.encode(copy), mode=PRIVATE_FILE)


def load(path: Path) -> ActiveExperiment | None:
    """Return the experiment in a file, or None if there is no file.

    Raises:
        SchemaError: If the file is damaged or cannot be read.
    """
    try:
        copy = msgspec.json.decode(path.read_bytes(), type=_Copy)
        table = buckets.from_bytes(copy.table)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError, OSError) as error:
        raise SchemaError("copy_damaged", f"{path.name}: {error}") from error
    lowest, highest = int(table.min()), int(table.max())
    if buckets.sha256(table) != copy.sha256 or lowest < buckets.UNASSIGNED or highest >= len(copy.arms):
        raise SchemaError(
            "copy_damaged", f"{path.name}: the allocation does not have its sha256, or names an unknown arm"
        )
    table.setflags(write=False)
    return ActiveExperiment(
        experiment=copy.experiment,
        layer=copy.layer,
        salt=copy.salt,
        epoch=copy.epoch,
        arms=copy.arms,
        table=table,
        sha256=copy.sha256,
    )


def _identity(active: ActiveExperiment | None) -> tuple[str, int, str] | None:
    return None if active is None else (active.experiment, active.epoch, active.sha256)
