"""Stored sums of an experiment, computed again from its facts and compared with what the sink has kept.

Source: docs/experiments.md, Stored sums.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from sqlalchemy import Connection, Engine, delete

from abtest import final_reports, moment_store, queries
from abtest.exact_sums import ExactSums
from abtest.fact_writer import lock_sink, progress
from abtest.moment_store import Cell, ClientState, Cut, Followed
from abtest.store import ExperimentStore
from abtest.tables import arm_sums, client_sums
from stream import db
from stream.errors import ConfigError

_CHUNK = 1_000
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """Comparison of one cut.

    Attributes:
        cut: `matured` or `settled`.
        clients: Clients of the facts.
        differing: Clients and arms whose stored sums differ; None if none were stored.
        largest: Largest difference of a sum or of a product of two.
        is_of_plan: Whether currency and epochs were those of the report.
    """

    cut: str
    clients: int
    differing: int | None
    largest: int
    is_of_plan: bool

    @property
    def is_equal(self) -> bool:
        """Return whether the stored sums were those of the facts."""
        return self.is_of_plan and not self.differing


def rebuild(engine: Engine, key: str) -> tuple[Rebuilt, ...]:
    """Compute the stored sums of an experiment from its facts, replace them, and return how they differed.

    The sink waits meanwhile. There is nothing to compare, and nothing is returned, before a session is mature.

    Args:
        engine: A database with the newest schema.
        key: The experiment.

    Raises:
        ConfigError: If there is no such experiment, or its facts are removed.
        StoreError: If the database is unreachable or refused.
    """
    store = ExperimentStore(engine)
    experiment, epochs = store.get(key), store.epochs(key)
    with db.transaction(engine) as connection:
        lock_sink(connection)
        if final_reports.read(connection, key) is not None:
            raise ConfigError(f"experiment '{key}': its facts were removed, so that its sums cannot be computed again")
        _, matured_ts = progress(connection)
        followed = next(
            each for each in moment_store.of_layer(connection, experiment.layer) if each.whole.experiment == key
        )
        if matured_ts is None or matured_ts < followed.whole.start_ts:
            return ()
        currency = queries.read(connection, experiment, epochs, partial=False).strays.currency
        return tuple(
            _rebuild(connection, followed, name, followed.target(name, matured_ts), currency)
            for name in (moment_store.MATURED, moment_store.SETTLED)
            if followed.target(name, matured_ts) >= followed.whole.start_ts
        )


def _rebuild(connection: Connection, followed: Followed, name: str, target_ts: int, currency: str | None) -> Rebuilt:
    key = followed.whole.experiment
    stored = moment_store.cut(connection, key, name)
    # What is stored up to an earlier time is compared at that time; the sink goes on from there.
    until_ts = target_ts if stored is None else min(stored.until_ts, target_ts)
    state = Cut(until_ts=until_ts, currency=currency, epochs=followed.whole.epochs)
    clients = moment_store.states_of_facts(connection, followed.at(state))
    arms = sums_of(clients.values())
    differences = [
        *_differences(moment_store.client_states(connection, key, name), clients, _of_client),
        *_differences(moment_store.arms(connection, key, name), arms, _of_arm),
    ]
    for table in (client_sums, arm_sums):
        connection.execute(delete(table).where(table.c.experiment == key, table.c.cut == name))
    ids = sorted(clients)
    for start in range(0, len(ids), _CHUNK):
        part = {client: clients[client] for client in ids[start : start + _CHUNK]}
        moment_store.write_clients(connection, key, name, part)
    moment_store.write_arms(connection, key, name, arms)
    moment_store.write_cut(connection, key, name, state)
    return Rebuilt(
        cut=name,
        clients=len(clients),
        differing=None if stored is None else len(differences),
        largest=0 if stored is None else max(differences, default=0),
        is_of_plan=stored is None
        or (
            stored.epochs == state.epochs
            # Before its first session a cut has no currency yet.
            and (stored.currency == currency or (stored.currency is None and not clients))
        ),
    )


def sums_of(clients: Iterable[ClientState]) -> dict[Cell, ExactSums]:
    """Return the sums of each epoch and arm."""
    arms: dict[Cell, ExactSums] = {}
    for client in clients:
        arms.setdefault(client.cell, ExactSums()).add(client.sums)
    return arms


def _differences(
    stored: Mapping[_Key, object], fresh: Mapping[_Key, object], numbers: Callable[[object], Sequence[int]]
) -> list[int]:
    """Return the largest difference of each entry that is not the same in both."""
    found = []
    for key in stored.keys() | fresh.keys():
        before, now = (numbers(entries[key]) if key in entries else () for entries in (stored, fresh))
        distances = [abs(one - other) for one, other in zip_longest(before, now, fillvalue=0)]
        # A client can change its arm and keep its sums.
        if any(distances) or (key in stored and key in fresh and stored[key] != fresh[key]):
            found.append(max([1, *distances]))
    return found


def _of_client(state: object) -> Sequence[int]:
    # The one tells a client without sums from no client.
    return (1, *((state.sums or ()) if isinstance(state, ClientState) else ()))


def _of_arm(sums: object) -> Sequence[int]:
    if not isinstance(sums, ExactSums):
        return ()
    return (sums.clients, sums.multi_arm, sums.buyers, sums.clicked_buyers, *sums.sums, *sums.products)
