"""Rows of the stored sums: the state of each cut, the sums of arms, and those of clients.

Source: docs/experiments.md, Stored sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Table, delete, select

from abtest.exact_sums import ExactSums
from abtest.tables import arm_sums, client_sums, moment_cuts
from stream import db

MATURED, SETTLED = "matured", "settled"
"""Names of the cuts: sessions whose attribution window is closed, and those whose refund window is closed too."""

Cell: TypeAlias = tuple[int, str]
"""Epoch and arm."""


class ClientState(NamedTuple):
    """Epoch and arm of a client, and its sums, which are None if it was seen in several arms."""

    cell: Cell
    sums: list[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """State of the sums of an experiment.

    Attributes:
        until_ts: Last impression time that counts.
        currency: Currency whose amounts are added up; None before any is seen.
        epochs: Numbers of the epochs that count.
        is_whole: Whether all clients are added up; reports take no other sums.
    """

    until_ts: int
    currency: str | None
    epochs: tuple[int, ...]
    is_whole: bool = True


def cut(connection: Connection, experiment: str, name: str) -> Cut | None:
    """Return the state of one cut, or None if no sums are stored."""
    row = connection.execute(
        select(moment_cuts).where(moment_cuts.c.experiment == experiment, moment_cuts.c.cut == name)
    ).one_or_none()
    if row is None:
        return None
    return Cut(until_ts=row.until_ts, currency=row.currency, epochs=tuple(row.epochs), is_whole=row.is_whole)


def arms(connection: Connection, experiment: str, name: str) -> dict[Cell, ExactSums]:
    """Return the stored sums of each epoch and arm."""
    rows = connection.execute(select(arm_sums).where(arm_sums.c.experiment == experiment, arm_sums.c.cut == name))
    return {
        (row.epoch, row.arm): ExactSums(
            clients=row.clients,
            multi_arm=row.multi_arm,
            buyers=row.buyers,
            clicked_buyers=row.clicked_buyers,
            sums=row.sums,
            products=row.products,
        )
        for row in rows
    }


def client_states(
    connection: Connection, experiment: str, name: str, clients: Sequence[str] | None = None
) -> dict[str, ClientState]:
    """Return the clients as they are stored, all or some."""
    own = client_sums.c
    found = select(own.client_id, own.epoch, own.arm, own.sums).where(own.experiment == experiment, own.cut == name)
    rows = connection.execute(found if clients is None else found.where(own.client_id.in_(clients)))
    return {client: ClientState((epoch, arm), sums) for client, epoch, arm, sums in rows}


def write_clients(connection: Connection, experiment: str, name: str, states: Mapping[str, ClientState | None]) -> None:
    """Store the clients; None removes one."""
    key = {"experiment": experiment, "cut": name}
    content = [
        {**key, "client_id": client, "epoch": found.cell[0], "arm": found.cell[1], "sums": found.sums}
        for client, found in states.items()
        if found is not None
    ]
    if content:
        _upsert(connection, client_sums, content)
    gone = [client for client, found in states.items() if found is None]
    if gone:
        own = client_sums.c
        connection.execute(
            delete(client_sums).where(own.experiment == experiment, own.cut == name, own.client_id.in_(gone))
        )


def write_arms(connection: Connection, experiment: str, name: str, cells: Mapping[Cell, ExactSums]) -> None:
    """Store the sums of these epochs and arms."""
    rows = [
        {"experiment": experiment, "cut": name, "epoch": epoch, "arm": arm, **asdict(sums)}
        for (epoch, arm), sums in sorted(cells.items())
    ]
    if rows:
        _upsert(connection, arm_sums, rows)


def write_cut(connection: Connection, experiment: str, name: str, state: Cut) -> None:
    """Store the state of a cut."""
    row = {"experiment": experiment, "cut": name, **asdict(state), "epochs": list(state.epochs)}
    _upsert(connection, moment_cuts, [row])


def _upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    upsert = db.insert(connection, table)
    changes = {column.name: upsert.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(upsert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes), rows)
