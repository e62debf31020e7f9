"""Stored sums of an experiment, compared with its facts and mended where they differ.

Facts and sums are compared in one snapshot, so that the sink goes on and no lock is held. Mending takes short
transactions. Each of them keeps what holds while the sink writes: a client that is added up again moves its arm by the
difference, and the distance of an arm's sums from those of its stored clients is the same before and after.

Source: docs/experiments.md, Stored sums.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

from sqlalchemy import Connection, Engine

from abtest import final_reports, moment_rows, moment_store, queries
from abtest.exact_sums import ExactSums
from abtest.fact_writer import lock_sink, progress
from abtest.moment_rows import MATURED, SETTLED, Cell, ClientState, Cut
from abtest.moment_store import Followed
from abtest.store import ExperimentStore
from stream import db
from stream.errors import ConfigError, StoreError

# Clients of one transaction, which takes some 10 ms on SQLite.
_CHUNK = 50
_MAX_ROUNDS = 3
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Comparison of one cut, and what it takes to mend it.

    Attributes:
        rebuilt: The comparison.
        state: State of the sums as it should be.
        anew: Whether the sums of all clients have to be added up.
        clients: Clients to add up again.
        surplus: What the sums of an arm hold beyond those of its stored clients, of the arms with a difference.
    """

    rebuilt: Rebuilt
    state: Cut
    anew: bool
    clients: tuple[str, ...]
    surplus: Mapping[Cell, ExactSums]

    @property
    def is_mended(self) -> bool:
        """Return whether nothing is to do."""
        return not (self.anew or self.clients or self.surplus)


def rebuild(engine: Engine, key: str, *, pause: Callable[[float], object]) -> tuple[Rebuilt, ...]:
    """Compare the stored sums of an experiment with its facts, mend them, and return how they differed.

    The sink goes on meanwhile. There is nothing to compare, and nothing is returned, before a session is mature.

    Args:
        engine: A database with the newest schema.
        key: The experiment.
        pause: Called with seconds after each transaction, so that other writers come in.

    Guarantees: after sums were mended, they are compared again.

    Raises:
        ConfigError: If there is no such experiment, or its facts are removed.
        StoreError: If the database is unreachable or refused, or the sums differ again and again, as while another
            process mends them too.
    """
    first = found = _compare_all(engine, key)
    for _ in range(_MAX_ROUNDS):
        if all(each.is_mended for each in found):
            return tuple(each.rebuilt for each in first)
        for each in found:
            _mend(engine, key, each, pause)
        found = _compare_all(engine, key)
    if not all(each.is_mended for each in found):
        raise StoreError(f"experiment '{key}': its sums differ from the facts again after {_MAX_ROUNDS} repairs")
    return tuple(each.rebuilt for each in first)


def _compare_all(engine: Engine, key: str) -> tuple[_Compared, ...]:
    store = ExperimentStore(engine)
    experiment, epochs = store.get(key), store.epochs(key)
    with db.read(engine) as connection:
        followed = _followed(connection, key)
        _, matured_ts = progress(connection)
        if matured_ts is None or matured_ts < followed.whole.start_ts:
            return ()
        currency = queries.read(connection, experiment, epochs, partial=False).strays.currency
        return tuple(
            _compare(connection, followed, name, followed.target(name, matured_ts), currency)
            for name in (MATURED, SETTLED)
            if followed.target(name, matured_ts) >= followed.whole.start_ts
        )


def _followed(connection: Connection, key: str) -> Followed:
    if final_reports.read(connection, key) is not None:
        raise ConfigError(f"experiment '{key}': its facts were removed, so that its sums cannot be computed again")
    return next(each for each in moment_store.of_layer(connection, None) if each.whole.experiment == key)


def _compare(connection: Connection, followed: Followed, name: str, target_ts: int, currency: str | None) -> _Compared:
    key = followed.whole.experiment
    stored = moment_rows.cut(connection, key, name)
    if stored is not None and not stored.is_whole:
        stored = None
    # What is stored up to an earlier time is compared at that time; the sink goes on from there.
    until_ts = target_ts if stored is None else min(stored.until_ts, target_ts)
    state = Cut(until_ts=until_ts, currency=currency, epochs=followed.whole.epochs)
    clients = moment_store.states_of_facts(connection, followed.at(state))
    kept = moment_rows.client_states(connection, key, name)
    arms = moment_rows.arms(connection, key, name)
    by_client = _differences(kept, clients, _of_client)
    by_arm = _differences(arms, sums_of(clients.values()), _of_arm)
    largest = max([*by_client.values(), *by_arm.values()], default=0)
    is_of_plan = stored is None or (
        stored.epochs == state.epochs
        # Before its first session a cut has no currency yet.
        and (stored.currency == currency or (stored.currency is None and not clients))
    )
    anew = stored is None or not is_of_plan or stored.until_ts > until_ts
    return _Compared(
        rebuilt=Rebuilt(
            cut=name,
            clients=len(clients),
            differing=None if stored is None else len(by_client) + len(by_arm),
            largest=0 if stored is None else largest,
            is_of_plan=is_of_plan,
        ),
        state=state,
        anew=anew,
        clients=tuple(sorted(kept.keys() | clients.keys() if anew else by_client)),
        surplus=_surplus(arms, sums_of(kept.values())),
    )


def _surplus(arms: Mapping[Cell, ExactSums], of_clients: Mapping[Cell, ExactSums]) -> dict[Cell, ExactSums]:
    found = {
        cell: arms.get(cell, ExactSums()).plus(of_clients.get(cell, ExactSums()), -1)
        for cell in arms.keys() | of_clients.keys()
    }
    return {cell: sums for cell, sums in found.items() if sums != ExactSums()}


def _mend(engine: Engine, key: str, found: _Compared, pause: Callable[[float], object]) -> None:
    name = found.rebuilt.cut

    @contextmanager
    def writing() -> Iterator[tuple[Connection, Followed]]:
        with db.transaction(engine) as connection:
            lock_sink(connection)
            yield connection, _followed(connection, key)
        pause(db.PAUSE_S)

    if found.anew:
        with writing() as (connection, _):
            present = moment_rows.cut(connection, key, name)
            until_ts = found.state.until_ts if present is None else min(present.until_ts, found.state.until_ts)
            moment_rows.write_cut(connection, key, name, replace(found.state, until_ts=until_ts, is_whole=False))
    for start in range(0, len(found.clients), _CHUNK):
        with writing() as (connection, followed):
            moment_store.add_up_again(connection, followed, name, found.clients[start : start + _CHUNK])
    if found.surplus:
        with writing() as (connection, _):
            arms = moment_rows.arms(connection, key, name)
            less = {cell: arms.get(cell, ExactSums()).plus(sums, -1) for cell, sums in found.surplus.items()}
            moment_rows.write_arms(connection, key, name, less)
    if found.anew:
        with writing() as (connection, _):
            present = moment_rows.cut(connection, key, name)
            if present is not None:
                moment_rows.write_cut(connection, key, name, replace(present, is_whole=True))


def sums_of(clients: Iterable[ClientState]) -> dict[Cell, ExactSums]:
    """Return the sums of each epoch and arm."""
    arms: dict[Cell, ExactSums] = {}
    for client in clients:
        arms.setdefault(client.cell, ExactSums()).add(client.sums)
    return arms


def _differences(
    stored: Mapping[_Key, object], fresh: Mapping[_Key, object], numbers: Callable[[object], Sequence[int]]
) -> dict[_Key, int]:
    """Return the largest difference of each entry that is not the same in both."""
    found = {}
    for key in stored.keys() | fresh.keys():
        before, now = (numbers(entries[key]) if key in entries else () for entries in (stored, fresh))
        distances = [abs(one - other) for one, other in zip_longest(before, now, fillvalue=0)]
        # A client can change its arm and keep its sums.
        if any(distances) or (key in stored and key in fresh and stored[key] != fresh[key]):
            found[key] = max([1, *distances])
    return found


def _of_client(state: object) -> Sequence[int]:
    # The one tells a client without sums from no client.
    return (1, *((state.sums or ()) if isinstance(state, ClientState) else ()))


def _of_arm(sums: object) -> Sequence[int]:
    if not isinstance(sums, ExactSums):
        return ()
    return (sums.clients, sums.multi_arm, sums.buyers, sums.clicked_buyers, *sums.sums, *sums.products)
