"""Sums of clients and of arms, kept by the sink in the transaction of the facts.

Two cuts are kept: sessions whose attribution window is closed, and those whose refund window is closed too. A client
that a batch touches, or whose sessions have matured, is added up again from its facts; the difference to its former
sums goes to those of its arm. So duplicates, corrections, late first exposures and a second arm need no rule of their
own. A cut moves forward by a bounded number of sessions in one transaction.

Source: docs/experiments.md, Stored sums; docs/adr/0022-moments-by-exact-sums.md.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection, select

from abtest.client_vectors import Counted, client_rows
from abtest.exact_sums import ExactSums
from abtest.moment_rows import (
    MATURED,
    SETTLED,
    Cell,
    ClientState,
    Cut,
    arms,
    client_states,
    cut,
    write_arms,
    write_clients,
    write_cut,
)
from abtest.plan import Plan
from abtest.session_counts import PRICED
from abtest.tables import ANALYSED_LAYER, client_orders, epochs, experiments, exposures, final_reports, session_facts

_MAX_STEP = 2_000
_CHUNK = 400
# No amount is of this currency, so that money counts as zero while none is known.
_NO_MONEY = "---"


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """An experiment as far as its sums need it: sessions that count up to the end, and the refund window."""

    whole: Counted
    currency: str | None
    refund_ms: int

    def target(self, name: str, matured_ts: int) -> int:
        """Return the newest impression time that a cut can hold."""
        closed_ts = matured_ts - (self.refund_ms if name == SETTLED else 0)
        return closed_ts if self.whole.until_ts is None else min(closed_ts, self.whole.until_ts)

    def at(self, state: Cut, clients: Collection[str] | None = None) -> Counted:
        """Return the sessions that count in a state of the sums, of all clients or of some."""
        return replace(
            self.whole,
            until_ts=state.until_ts,
            epochs=state.epochs,
            currency=state.currency or _NO_MONEY,
            clients=None if clients is None else tuple(clients),
        )


def advance(connection: Connection, matured_ts: int, touched: Mapping[str, int]) -> None:
    """Update the sums of all experiments that the facts name.

    Args:
        connection: The transaction, in which facts and orders are already written.
        matured_ts: Newest impression time whose attribution window is closed in all partitions.
        touched: Client whose facts or orders changed, to the earliest impression time among them.
    """
    for followed in of_layer(connection, ANALYSED_LAYER):
        for name in (MATURED, SETTLED):
            _advance(connection, followed, name, followed.target(name, matured_ts), touched)


def forget(connection: Connection, client_id: str) -> None:
    """Take a client, whose facts are removed, off all sums."""
    for followed in of_layer(connection, None):
        for name in (MATURED, SETTLED):
            add_up_again(connection, followed, name, [client_id])


def add_up_again(connection: Connection, followed: Followed, name: str, clients: Sequence[str]) -> None:
    """Add clients up again from their facts, if sums are stored."""
    state = cut(connection, followed.whole.experiment, name)
    if state is not None:
        _fold(connection, followed, name, state, clients)


def stored(connection: Connection, counted: Counted, name: str) -> dict[Cell, ExactSums] | None:
    """Return the sums of each arm and epoch, or None if those that are stored are not of exactly these sessions.

    Sums of the time before the first exposure are not stored.
    """
    if counted.before_s:
        return None
    state = cut(connection, counted.experiment, name)
    if state != Cut(until_ts=counted.until_ts or 0, currency=counted.currency, epochs=counted.epochs):
        return None
    return arms(connection, counted.experiment, name)


def of_layer(connection: Connection, layer: str | None) -> Iterator[Followed]:
    """Yield the experiments of a layer, or of all, whose facts are kept."""
    removed = select(final_reports.c.experiment)
    kept = experiments.c.key.not_in(removed)
    found = select(experiments.c.key, experiments.c.plan).where(kept).order_by(experiments.c.key)
    for key, stored_plan in connection.execute(
        found if layer is None else found.where(experiments.c.layer == layer)
    ).all():
        plan = msgspec.convert(stored_plan, Plan)
        periods = connection.execute(
            select(epochs.c.number, epochs.c.start_ts, epochs.c.end_ts)
            .where(epochs.c.experiment == key)
            .order_by(epochs.c.number)
        ).all()
        yield Followed(
            whole=Counted(
                experiment=key,
                epochs=tuple(period.number for period in periods),
                start_ts=periods[0].start_ts,
                until_ts=periods[-1].end_ts,
                attribution_s=plan.attribution_s,
            ),
            currency=plan.currency,
            refund_ms=plan.refund_s * 1_000,
        )


def _advance(connection: Connection, followed: Followed, name: str, target_ts: int, touched: Mapping[str, int]) -> None:
    whole = followed.whole
    state = cut(connection, whole.experiment, name)
    if state is None:
        if target_ts < whole.start_ts:
            return
        state = Cut(until_ts=whole.start_ts - 1, currency=followed.currency, epochs=whole.epochs)
    new = replace(state, until_ts=_step(connection, state.until_ts, target_ts), epochs=whole.epochs)
    clients = {client for client, first_ts in touched.items() if first_ts <= new.until_ts}
    if new.until_ts > state.until_ts:
        clients |= _matured(connection, followed, state.until_ts, new.until_ts)
    if new.epochs != state.epochs:
        clients |= _of_epochs(connection, whole, set(new.epochs) - set(state.epochs), new.until_ts)
    if new.currency is None:
        new = replace(new, currency=_currency(connection, followed, new, sorted(clients)))
        if new.currency is not None:
            clients |= _ordering(connection, whole)
    if new != state:
        write_cut(connection, whole.experiment, name, new)
    _fold(connection, followed, name, new, sorted(clients))


def _step(connection: Connection, from_ts: int, target_ts: int) -> int:
    """Return how far a cut moves in this transaction, so that a long way takes several."""
    if target_ts <= from_ts:
        return from_ts
    shown_ts = session_facts.c.impression_ts
    bound = connection.execute(
        select(shown_ts).where(shown_ts > from_ts, shown_ts <= target_ts).order_by(shown_ts).offset(_MAX_STEP).limit(1)
    ).scalar_one_or_none()
    return target_ts if bound is None else int(bound)


def _matured(connection: Connection, followed: Followed, from_ts: int, to_ts: int) -> set[str]:
    """Return the clients whose sessions, or whose orders, begin to count between two times."""
    facts, orders, whole = session_facts.c, client_orders.c, followed.whole
    window_ms = 1_000 * whole.attribution_s
    shown = select(facts.client_id).where(
        facts.impression_ts > from_ts, facts.impression_ts <= to_ts, facts.experiment == whole.experiment
    )
    bought = (
        select(orders.client_id)
        .join(exposures, exposures.c.client_id == orders.client_id)
        .where(
            exposures.c.experiment == whole.experiment,
            orders.bought_ts > from_ts + window_ms,
            orders.bought_ts <= to_ts + window_ms,
        )
    )
    return {client for query in (shown, bought) for client in connection.execute(query.distinct()).scalars()}


def _of_epochs(connection: Connection, whole: Counted, numbers: Collection[int], until_ts: int) -> set[str]:
    """Return the clients whose sessions or exposures named these epochs before they began."""
    early = replace(whole, epochs=tuple(sorted(numbers)), until_ts=until_ts)
    queries = (
        select(session_facts.c.client_id).where(*early.sessions()),
        select(exposures.c.client_id).where(*early.exposures()),
    )
    return {client for query in queries for client in connection.execute(query.distinct()).scalars()}


def _ordering(connection: Connection, whole: Counted) -> set[str]:
    """Return the clients with an order."""
    found = (
        select(client_orders.c.client_id)
        .join(exposures, exposures.c.client_id == client_orders.c.client_id)
        .where(exposures.c.experiment == whole.experiment)
    )
    return set(connection.execute(found.distinct()).scalars())


def _currency(connection: Connection, followed: Followed, state: Cut, clients: Sequence[str]) -> str | None:
    """Return the currency of the first session of these clients that has one."""
    for start in range(0, len(clients), _CHUNK):
        found = connection.execute(
            select(session_facts.c.currency)
            .where(*followed.at(state, clients[start : start + _CHUNK]).sessions(), PRICED)
            .order_by(session_facts.c.impression_ts, session_facts.c.query_id)
            .limit(1)
        ).scalar_one_or_none()
        if found is not None:
            return str(found)
    return None


def _fold(connection: Connection, followed: Followed, name: str, state: Cut, clients: Sequence[str]) -> None:
    """Add the clients up again, and move their arms' sums by the difference."""
    experiment = followed.whole.experiment
    changes: dict[Cell, ExactSums] = {}
    for start in range(0, len(clients), _CHUNK):
        chunk = clients[start : start + _CHUNK]
        now = states_of_facts(connection, followed.at(state, chunk))
        before = client_states(connection, experiment, name, chunk)
        changed = {client: now.get(client) for client in chunk if before.get(client) != now.get(client)}
        for client, found in changed.items():
            for state_of, sign in ((before.get(client), -1), (found, 1)):
                if state_of is not None:
                    changes.setdefault(state_of.cell, ExactSums()).add(state_of.sums, sign)
        write_clients(connection, experiment, name, changed)
    if changes:
        present = arms(connection, experiment, name)
        total = {cell: present.get(cell, ExactSums()).plus(change) for cell, change in changes.items()}
        write_arms(connection, experiment, name, total)


def states_of_facts(connection: Connection, counted: Counted) -> dict[str, ClientState]:
    """Return the clients as their facts say."""
    return {
        row.client_id: ClientState(
            (row.epoch, row.arm), None if row.vector is None else [int(each) for each in row.vector]
        )
        for row in client_rows(connection, counted)
    }
