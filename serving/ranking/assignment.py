"""Which policy answers a client, and the copy of the experiment on disk for a start without the database.

Source: EXPERIMENTS.md 5, TRAINING_SERVING.md 8.4, RELIABILITY.md 2.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from abtest import buckets
from abtest.store import ActiveExperiment, Arm
from stream.errors import SchemaError
from stream.files import replace_file

INCOMING_ORDER: Final = "incoming_order"
SHUFFLE: Final = "shuffle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who answers a client: a lineage, or a fixed policy.

    Attributes:
        bucket: The client's bucket in the layer, None while no experiment is known.
        experiment: Name of the experiment, None for clients outside of it.
        arm: The arm's name inside the experiment.
        lineage: Scores with its live version; None when a fixed policy answers.
        policy: `incoming_order` or `shuffle`; only used without a lineage.
    """

    layer: str | None = None
    experiment: str | None = None
    arm: str | None = None
    epoch: int | None = None
    bucket: int | None = None
    lineage: str | None = None
    policy: str = INCOMING_ORDER


class _Copy(Struct, kw_only=True, frozen=True):
    experiment: str
    layer: str
    salt: str
    epoch: int
    arms: tuple[Arm, ...]
    table: bytes
    sha256: str


def decide(client_id: str, active: ActiveExperiment | None, default_lineage: str | None) -> Decision:
    """Return who answers this client; the same client and allocation always give the same decision."""
    if active is None:
        return Decision(lineage=default_lineage)
    bucket, arm = active.assign(client_id)
    if arm is None:
        return Decision(bucket=bucket, lineage=default_lineage)
    return Decision(
        layer=active.layer,
        experiment=active.experiment,
        arm=arm.name,
        epoch=active.epoch,
        bucket=bucket,
        lineage=arm.lineage,
        policy=arm.policy or INCOMING_ORDER,
    )


def save(active: ActiveExperiment | None, path: Path) -> None:
    """Keep the experiment in a file, or forget it."""
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
    replace_file(path, msgspec.json.encode(copy))


def load(path: Path) -> ActiveExperiment | None:
    """Return the experiment kept in a file, None when there is none.

    Raises:
        SchemaError: If the file is damaged.
    """
    try:
        copy = msgspec.json.decode(path.read_bytes(), type=_Copy)
        table = buckets.from_bytes(copy.table)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError) as error:
        raise SchemaError("copy_damaged", f"{path.name}: {error}") from error
    numbers = (int(table.min()), int(table.max()))
    if buckets.sha256(table) != copy.sha256 or numbers[0] < buckets.UNASSIGNED or numbers[1] >= len(copy.arms):
        raise SchemaError("copy_damaged", f"{path.name}: the allocation does not have its sha256 or names no arm")
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
