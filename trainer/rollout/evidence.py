"""The evidence on a lineage, read from the reports of servers, the facts of the sink and the running experiments.

Source: docs/rollout.md.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Double, Engine, cast, func, or_, select

from abtest import buckets
from abtest.client_vectors import session_sums
from abtest.metrics import COLUMNS
from abtest.moments import Moments
from abtest.tables import arms, epochs, experiments, session_facts
from stream import db
from trainer.rollout import reports
from trainer.rollout.gates import Loads, SliceCounts
from trainer.rollout.judgement import Evidence
from trainer.rollout.policy import Policy
from trainer.rollout.reports import AnswerCounts, Report
from trainer.rollout.slices import CANARY, CONTROL
from trainer.rollout.states import LineageView, VersionView


def read(engine: Engine, view: LineageView, policy: Policy, now_ms: int) -> Evidence:
    """Return the evidence on a lineage, as one state of the database holds it.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    canary, live = view.only("canary"), view.only("live")
    with db.read(engine) as connection:
        found = reports.read(connection)
        facts = {} if canary is None else _facts(connection, view.name, canary, live)
        share = _bucket_share(connection, view.name)
    ready = [each for each in found if each.ready]
    fresh = [each for each in ready if now_ms - each.seen_ts <= 1_000 * policy.server_fresh_s]
    numbers = [version.number for version in view.versions if version.status in {"verified", "canary", "live"}]
    return Evidence(
        loads={number: _loads(fresh, view.name, number) for number in numbers},
        slices=_slices(found, view.name, canary),
        facts=facts,
        bucket_share=share,
        silent={each.name: each.seen_ts for each in ready if each not in fresh and view.name in each.loaded},
    )


def _loads(fresh: Iterable[Report], lineage: str, number: int) -> Loads:
    """Return the state of a version on the servers that answer for its lineage."""
    ok, pending, refused = [], [], {}
    for report in fresh:
        states = report.loaded.get(lineage)
        if states is None:
            continue
        state = states.get(str(number))
        if state == reports.OK:
            ok.append(report.name)
        elif state is None:
            pending.append(report.name)
        else:
            refused[report.name] = state
    return Loads(ok=tuple(ok), pending=tuple(pending), refused=refused)


def _slices(found: Iterable[Report], lineage: str, canary: VersionView | None) -> dict[tuple[int, str], SliceCounts]:
    """Return the counts by version and slice, summed over servers.

    Reports from before the canary hold nothing on it.
    """
    since = 0 if canary is None or canary.canary_since is None else canary.canary_since
    slices: dict[tuple[int, str], SliceCounts] = {}
    for report in found:
        for key, counts in report.by_key().items():
            if key.lineage != lineage or (key.part in {CANARY, CONTROL} and report.seen_ts < since):
                continue
            place = key.version, key.part
            slices[place] = slices.get(place, SliceCounts()) + _counts(counts)
    return slices


def _counts(counts: AnswerCounts) -> SliceCounts:
    return SliceCounts(
        answered=counts.answered,
        fallbacks=sum(counts.fallbacks.values()),
        bad=counts.bad,
        latency={float(bound): num for bound, num in counts.latency.items()},
    )


def _facts(connection: Connection, lineage: str, canary: VersionView, live: VersionView | None) -> dict[str, Moments]:
    """Return the moments of each slice; a list that fell back to the incoming order has no version, and counts."""
    answered_by = {CANARY: canary, CONTROL: live}
    number = session_facts.c.version
    return {
        part: Moments.of(
            _clients(
                connection,
                session_facts.c.lineage == lineage,
                session_facts.c.slice == part,
                session_facts.c.impression_ts >= (canary.canary_since or 0),
                or_(number.is_(None), number == (None if version is None else str(version.number))),
            )
        )
        for part, version in answered_by.items()
    }


def _clients(connection: Connection, *conditions: ColumnElement[bool]) -> np.ndarray[tuple[int, int], Any]:
    """Return the sums of each client, in the order of `abtest.metrics.COLUMNS`.

    The facts of a slice hold the orders that the join attributed to a click, so these stand for all orders, too.
    """
    own, found = session_facts.c, session_sums()
    # As floats, since SQLite refuses sums of integers above 2^63.
    orders, refunded = func.sum(own.orders), func.sum(cast(own.refund_minor, Double))
    gross = found["clicked_gross_minor"]
    found |= {"orders": orders, "clicked_orders": orders}
    found |= {"gross_minor": gross, "refund_minor": refunded, "net_minor": gross - refunded}
    sums = select(*(found[name] for name in COLUMNS)).where(*conditions).group_by(own.client_id).order_by(own.client_id)
    rows = [tuple(float(number) for number in row) for row in connection.execute(sums)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))


def _bucket_share(connection: Connection, lineage: str) -> float | None:
    """Return the share of buckets in arms of the lineage, over the open epochs of running experiments."""
    rows = connection.execute(
        select(epochs.c.buckets, arms.c.number)
        .join(experiments, experiments.c.key == epochs.c.experiment)
        .join(arms, arms.c.experiment == experiments.c.key)
        .where(experiments.c.status == "running", epochs.c.end_ts.is_(None), arms.c.lineage == lineage)
    ).all()
    if not rows:
        return None
    share = sum(float(np.mean(buckets.from_bytes(row.buckets) == row.number)) for row in rows)
    return min(share, 1.0) or None
