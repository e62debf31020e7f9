"""Conditions on the rows of `versions` that stay: of those that may serve, and of those that others need.

Source: docs/training.md, "Versions".
"""

from sqlalchemy import ColumnElement, func, or_, select

from trainer.versions.tables import lineages, teachers, versions


def is_kept(lineage: str, keep: int) -> ColumnElement[bool]:
    """Return the condition of the newest `keep` versions, those that may serve, and teachers of any lineage."""
    numbers = select(versions.c.version).where(versions.c.lineage == lineage)
    newest = numbers.order_by(versions.c.version.desc()).limit(max(keep, 1))
    teaches = versions.c.artifact.in_(select(teachers.c.artifact))
    return or_(versions.c.version.in_(newest), teaches, _may_serve(lineage))


def is_recoverable(lineage: str) -> ColumnElement[bool]:
    """Return the condition of the versions that may serve, and of the newest one that has not served yet."""
    serving = select(func.coalesce(func.max(versions.c.version), 0)).where(
        versions.c.lineage == lineage, versions.c.status.in_(("live", "canary"))
    )
    on_its_way = (
        select(versions.c.version)
        .where(versions.c.lineage == lineage, versions.c.status.in_(("published", "verified")))
        .where(versions.c.version > serving.scalar_subquery())
        .order_by(versions.c.version.desc())
        .limit(1)
    )
    return or_(_may_serve(lineage), versions.c.version.in_(on_its_way))


def _may_serve(lineage: str) -> ColumnElement[bool]:
    """Return the condition of the versions that serve, that serving goes back to, and that training goes back to."""
    former = (
        select(versions.c.version)
        .where(versions.c.lineage == lineage, versions.c.status == "superseded", versions.c.live_since.is_not(None))
        .order_by(versions.c.live_since.desc(), versions.c.version.desc())
        .limit(1)
    )
    named = [
        versions.c.version.in_(select(column).where(lineages.c.name == lineage, column.is_not(None)))
        for column in (lineages.c.pinned, lineages.c.rewind_to)
    ]
    return or_(versions.c.status.in_(("live", "canary")), versions.c.version.in_(former), *named)
