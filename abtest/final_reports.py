"""Final reports of experiments, which stay when the facts are removed.

Source: docs/experiments.md, Retention.
"""

from dataclasses import replace

import msgspec
from sqlalchemy import Connection, select

from abtest.results import Report
from abtest.tables import final_reports
from stream import db
from stream.errors import StoreError

_REMOVED = (
    "The facts of this experiment were removed by `abtest.keep_facts_days`. This is the last report computed from "
    "them; no look can be taken any more."
)


def read(connection: Connection, experiment: str) -> Report | None:
    """Return the final report of an experiment, or None while its facts are kept.

    Raises:
        StoreError: If the stored report cannot be read.
    """
    stored = connection.execute(
        select(final_reports.c.report).where(final_reports.c.experiment == experiment)
    ).scalar_one_or_none()
    if stored is None:
        return None
    try:
        return _decode(stored)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"experiment '{experiment}': its facts were removed, and its final report cannot be read: {error}"
        ) from error


def write(connection: Connection, found: Report) -> bool:
    """Store a report, which then says that the facts were removed; a report that is there stays.

    Args:
        connection: The transaction.
        found: The report.

    Returns:
        False, with nothing stored, if JSON would not give the same report back.
    """
    final = replace(found, caveats=(*found.caveats, _REMOVED))
    text = msgspec.json.encode(final).decode()
    try:
        if _decode(text) != final:
            return False
    except msgspec.DecodeError:
        return False
    row = {"experiment": final.experiment, "as_of": final.as_of, "report": text}
    connection.execute(db.insert(connection, final_reports).on_conflict_do_nothing(), [row])
    return True


def _decode(text: str) -> Report:
    return msgspec.json.decode(text, type=Report)
