"""Rows of a lineage and its versions as one view.

Source: docs/rollout.md.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from stream.errors import ConfigError
from trainer.rollout.states import LineageView, VersionView
from trainer.versions.leases import lock
from trainer.versions.tables import lineages, versions

_LINEAGE_COLUMNS: Final = (
    "name",
    "row_version",
    "policy",
    "pinned",
    "frozen",
    "killed",
    "rewind_to",
    "rewind_mode",
)
_VERSION_COLUMNS: Final = (
    "status",
    "artifact",
    "parent",
    "published_ts",
    "live_since",
    "canary_share",
    "canary_since",
    "metrics",
)


def read_locked(connection: Connection, lineage: str) -> LineageView:
    """Return a lineage that neither commands nor its trainer change before the transaction ends.

    Trainers lock the lease before they write versions, so it comes first here as well. The lock of the lineage lets the
    foreign keys of their rows be checked.
    """
    lock(connection, lineage)
    connection.execute(select(lineages.c.name).where(lineages.c.name == lineage).with_for_update(key_share=True))
    return read(connection, lineage)


def read(connection: Connection, lineage: str) -> LineageView:
    """Return a lineage with its versions, read in one statement.

    Raises:
        ConfigError: If there is no such lineage.
    """
    joined = lineages.outerjoin(versions, versions.c.lineage == lineages.c.name)
    columns = [
        *(lineages.c[name].label(f"of_{name}") for name in _LINEAGE_COLUMNS),
        *(versions.c[name] for name in (*_VERSION_COLUMNS, "version", "row_version")),
    ]
    rows = connection.execute(
        select(*columns).select_from(joined).where(lineages.c.name == lineage).order_by(versions.c.version)
    ).all()
    if not rows:
        known = ", ".join(connection.execute(select(lineages.c.name).order_by(lineages.c.name)).scalars())
        raise ConfigError(f"lineage = '{lineage}': expected one of: {known or 'none, no trainer has run'}")
    own = {name: getattr(rows[0], f"of_{name}") for name in _LINEAGE_COLUMNS}
    return LineageView(**(own | {"policy": own["policy"] or {}, "versions": tuple(_versions(rows))}))


def _versions(rows: Iterable[Row[Any]]) -> Iterable[VersionView]:
    for row in rows:
        if row.version is not None:
            values = {name: getattr(row, name) for name in _VERSION_COLUMNS}
            yield VersionView(number=row.version, row_version=row.row_version, **values)
