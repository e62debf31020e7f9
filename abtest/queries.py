"""Queries of a report: counts per arm, moments of the clients, and the range of the data.

Source: docs/experiments.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, select

from abtest import first_exposures, moment_store
from abtest.client_vectors import NO_CLIENTS, Clients, Counted, client_vectors
from abtest.experiment import Epoch, Experiment, shares_differ
from abtest.fact_writer import progress
from abtest.first_exposures import FirstExposures
from abtest.metrics import COLUMNS, Metric
from abtest.moment_rows import MATURED, SETTLED
from abtest.moments import Moments, merge
from abtest.session_counts import SessionCounts, read_session_counts
from abtest.strays import Strays, read_strays
from abtest.tables import session_facts
from stream.schemas.times import DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRange:
    """Range of the facts of an experiment.

    Attributes:
        watermark_ts: Watermark of the join over all partitions; None before every partition has reported one. It ends
            with the windows of a stopped experiment.
        matured_ts: Newest impression time that counts: its attribution window is closed in all partitions, and the
            experiment ran.
        settled_ts: The same for money after refunds: the refund window is closed too.
        end_ts: End of a stopped experiment.
        first_ts: First impression of the experiment.
        last_ts: Last impression of the experiment.
    """

    watermark_ts: int | None
    matured_ts: int | None
    settled_ts: int | None
    end_ts: int | None
    first_ts: int | None
    last_ts: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """Counts of one arm.

    Attributes:
        exposed: Clients whose first exposure was in this arm.
        multi_arm: Exposed clients that were also seen in another arm; the analysis leaves them out.
        analysed: Clients of the analysis.
        buyers: Analysed clients with an order.
        orders: All orders since the first exposure, `gross_minor` and `refund_minor` their money.
        clicked_orders: Orders after a click in a list, `clicked_gross_minor` their money.
        fallbacks: Sessions that serving answered in the incoming order.
    """

    arm: str
    exposed: int
    multi_arm: int
    analysed: int
    buyers: int
    sessions: int
    items: int
    clicks: int
    orders: int
    gross_minor: int
    refund_minor: int
    clicked_orders: int
    clicked_gross_minor: int
    fallbacks: int
    num_versions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Clients of one arm that a metric is computed from.

    Attributes:
        moments: Moments of the clients' sums.
        by_epoch: The same of the clients first exposed in each epoch.
        buyers: Clients with an order.
        clicked_buyers: Clients with an order after a click.
        multi_arm: Clients that were seen in another arm too, which are left out.
    """

    moments: Moments
    by_epoch: Mapping[int, Moments]
    buyers: int
    clicked_buyers: int
    multi_arm: int = 0

    def buyers_of(self, metric: Metric) -> int:
        """Return the number of clients with an order that the metric counts."""
        return self.clicked_buyers if metric.is_clicked else self.buyers


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Data of one report, read in one snapshot.

    Attributes:
        data_range: Range of the facts.
        partial: Whether sessions with open windows count.
        counts: Counts of each arm, in the order of the plan.
        exposures: Clients by their first exposure, those with open windows included.
        matured: Clients by arm, from sessions whose attribution window is closed.
        settled: Clients by arm, from sessions whose refund window is closed too.
        strays: Sessions and clients that fit the plan in part, or not at all.
        stratified: Whether estimates are means of epochs, because the shares of the arms differ between them.
        reweighted: Whether the planned weights of the arms differ between epochs.
        open_sessions: Sessions that are left out because their attribution windows are open.
    """

    data_range: DataRange
    partial: bool
    counts: tuple[ArmCounts, ...]
    exposures: tuple[FirstExposures, ...]
    matured: Mapping[str, Sample]
    settled: Mapping[str, Sample]
    strays: Strays
    stratified: bool
    reweighted: bool
    open_sessions: int

    def sample(self, metric: Metric, arm: str) -> Sample:
        """Return the clients of one arm that the metric is computed from."""
        return (self.settled if metric.waits_for_refunds else self.matured)[arm]

    def until_ts(self, metric: Metric) -> int | None:
        """Return the newest impression time whose windows are closed for the metric."""
        return self.data_range.settled_ts if metric.waits_for_refunds else self.data_range.matured_ts

    def is_complete(self, metric: Metric) -> bool:
        """Return whether the experiment has stopped and all of its windows for the metric are closed."""
        end_ts, until_ts = self.data_range.end_ts, self.until_ts(metric)
        return end_ts is not None and until_ts is not None and until_ts >= end_ts


def read(
    connection: Connection, experiment: Experiment, epochs: tuple[Epoch, ...], *, partial: bool | None = None
) -> Facts:
    """Return the data of an experiment's report.

    Args:
        connection: A transaction that sees one state of the database throughout.
        experiment: The experiment.
        epochs: Its epochs. The end of the last one freezes the data: no later impression counts.
        partial: Whether sessions with open windows count; None means only while no session is mature.
    """
    whole = Counted(
        experiment=experiment.key,
        epochs=tuple(epoch.number for epoch in epochs),
        start_ts=epochs[0].start_ts,
        until_ts=epochs[-1].end_ts,
        attribution_s=experiment.plan.attribution_s,
        before_s=round(DAY_S * (experiment.plan.cuped_days or 0.0)),
    )
    watermark, matured = progress(connection)
    matured_ts = _at_most(matured, whole.until_ts)
    if partial is None:
        partial = not _any_session(connection, whole.until(_up_to(matured_ts)))
    counted = whole if partial else whole.until(_up_to(matured_ts))
    arms = tuple(arm.name for arm in experiment.arms)
    sessions = read_session_counts(connection, counted, arms, end_ts=whole.until_ts)
    exposed = first_exposures.read(connection, whole, counted)
    exposed_by_arm = exposed_clients(exposed)
    data_range = _data_range(experiment, sessions, watermark, matured, whole.until_ts)
    strays = read_strays(connection, experiment, counted, sessions, exposed_by_arm)
    counted = replace(counted, currency=strays.currency)
    matured_clients = _samples(connection, experiment, counted, MATURED)
    settled = matured_clients
    if not partial and data_range.settled_ts != data_range.matured_ts:
        until_settled = counted.until(_up_to(data_range.settled_ts))
        settled = _samples(connection, experiment, until_settled, SETTLED)
    return Facts(
        data_range=data_range,
        partial=partial,
        counts=tuple(
            _arm_counts(
                arm,
                exposed_by_arm[arm],
                matured_clients[arm],
                num_versions=sessions.versions[arm],
            )
            for arm in arms
        ),
        exposures=exposed,
        matured=matured_clients,
        settled=settled,
        strays=strays,
        stratified=shares_differ(epochs),
        reweighted=len({epoch.weights for epoch in epochs}) > 1,
        open_sessions=0 if partial else sessions.open,
    )


def _up_to(time_ts: int | None) -> int:
    # Nothing counts before the join has said how far it is.
    return -1 if time_ts is None else time_ts


def _samples(connection: Connection, experiment: Experiment, counted: Counted, cut: str) -> dict[str, Sample]:
    """Return the clients of each arm from stored sums, or from facts where none are stored of these sessions."""
    known = [arm.name for arm in experiment.arms]
    sums = moment_store.stored(connection, counted, cut)
    if sums is None:
        return samples_of_facts(known, client_vectors(connection, counted))
    samples = {}
    for arm in known:
        cells = {epoch: cell for (epoch, name), cell in sorted(sums.items()) if name == arm}
        by_epoch = {epoch: cell.moments for epoch, cell in cells.items() if cell.clients}
        samples[arm] = Sample(
            moments=merge(list(by_epoch.values()), len(COLUMNS)),
            by_epoch=by_epoch,
            buyers=sum(cell.buyers for cell in cells.values()),
            clicked_buyers=sum(cell.clicked_buyers for cell in cells.values()),
            multi_arm=sum(cell.multi_arm for cell in cells.values()),
        )
    return samples


def samples_of_facts(known: Sequence[str], clients: Mapping[str, Clients]) -> dict[str, Sample]:
    """Return the clients of each known arm from their sums."""
    samples = {}
    for arm in known:
        part = clients.get(arm, NO_CLIENTS)
        by_epoch = {int(epoch): Moments.of(part.vectors[part.epochs == epoch]) for epoch in np.unique(part.epochs)}
        samples[arm] = Sample(
            moments=merge(list(by_epoch.values()), len(COLUMNS)),
            by_epoch=by_epoch,
            buyers=part.buyers,
            clicked_buyers=part.clicked_buyers,
            multi_arm=part.multi_arm,
        )
    return samples


def _at_most(time_ts: int | None, end_ts: int | None) -> int | None:
    return time_ts if time_ts is None or end_ts is None else min(time_ts, end_ts)


def _data_range(
    experiment: Experiment, sessions: SessionCounts, watermark: int | None, matured: int | None, end_ts: int | None
) -> DataRange:
    refund_ms = experiment.plan.refund_s * 1_000
    frozen_ts = None if end_ts is None else end_ts + experiment.plan.attribution_s * 1_000 + refund_ms
    return DataRange(
        watermark_ts=_at_most(watermark, frozen_ts),
        matured_ts=_at_most(matured, end_ts),
        settled_ts=None if matured is None else _at_most(matured - refund_ms, end_ts),
        end_ts=end_ts,
        first_ts=sessions.first_ts,
        last_ts=sessions.last_ts,
    )


def _any_session(connection: Connection, counted: Counted) -> bool:
    found = select(session_facts.c.experiment).where(*counted.sessions()).limit(1)
    return connection.execute(found).first() is not None


def exposed_clients(cells: Iterable[FirstExposures]) -> Counter[str]:
    """Return the number of exposed clients of each arm."""
    by_arm: Counter[str] = Counter()
    for cell in cells:
        by_arm[cell.arm] += cell.exposed
    return by_arm


def _arm_counts(arm: str, exposed: int, sample: Sample, *, num_versions: int) -> ArmCounts:
    moments = sample.moments
    totals = {column: round(moments.n * float(moments.mean[index])) for index, column in enumerate(COLUMNS)}
    return ArmCounts(
        arm=arm,
        exposed=exposed,
        multi_arm=sample.multi_arm,
        analysed=moments.n,
        buyers=sample.buyers,
        sessions=totals["sessions"],
        items=totals["items"],
        clicks=totals["clicks"],
        orders=totals["orders"],
        gross_minor=totals["gross_minor"],
        refund_minor=totals["refund_minor"],
        clicked_orders=totals["clicked_orders"],
        clicked_gross_minor=totals["clicked_gross_minor"],
        fallbacks=totals["fallbacks"],
        num_versions=num_versions,
    )
