"""A seeded experiment with clients of unequal habits, written by the sink's own code, and its true numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from sqlalchemy import Engine

from abtest.experiment import Arm
from abtest.fact_writer import FactWriter
from abtest.plan import Plan
from abtest.store import ExperimentStore
from stream.schemas import topics
from stream.schemas.session import Progress, Session, SessionsRecord
from tests.harness.sessions import click, log_of, make_session, purchase, refund

ARMS = (Arm(name="control", lineage="prm-1", is_control=True), Arm(name="treatment", lineage="armmt-1"))
LAST_TS = 1_000_000


@dataclass(frozen=True)
class ClientTruth:
    """True numbers of one client: arm and (sessions, items, clicks, orders, gross, refunds)."""

    arm: str
    numbers: tuple[int, ...]


def generate(
    seed: int, num_clients: int = 300, *, treatment: float = 0.5, lift: float = 1.3
) -> tuple[list[Session], dict[str, ClientTruth]]:
    """Return sessions and their true sums; some orders span two lists of a client and count once."""
    random = np.random.default_rng(seed)
    sessions: list[Session] = []
    truth: dict[str, ClientTruth] = {}
    for index in range(num_clients):
        client = f"c{index:05d}"
        arm = "treatment" if random.random() < treatment else "control"
        effect = lift if arm == "treatment" else 1.0
        taste = random.beta(2, 18) * effect
        num_sessions = 1 + random.poisson(2)
        items = clicks = gross = refunds = 0
        orders: set[str] = set()
        for number in range(num_sessions):
            n = int(random.integers(5, 15))
            clicked = np.flatnonzero(random.random(n) < taste)
            bought = clicked[random.random(len(clicked)) < 0.4]
            amounts = (random.lognormal(7, 1, len(bought))).astype(int) + 1
            # The second list of a client shares the order of the first.
            order = f"{client}-t{number // 2}"
            shown_ts = 1_000 + 10 * len(sessions)
            lines = [
                purchase(order, int(item), int(amount), event_ts=shown_ts + 5)
                for item, amount in zip(bought, amounts, strict=True)
            ]
            if len(bought) and random.random() < 0.2:
                lines.append(refund(order, int(bought[0]), int(amounts[0]), event_ts=shown_ts + 6))
                refunds += int(amounts[0])
            sessions.append(
                make_session(
                    f"q{index}-{number}",
                    client,
                    arm=arm,
                    impression_ts=shown_ts,
                    n=n,
                    events=[click(f"e{index}-{number}-{item}", int(item)) for item in clicked],
                    # An order of two lists has lines of its own in each.
                    lines=[structs.replace(line, line_id=f"{number}-{line.line_id}") for line in lines],
                )
            )
            items, clicks, gross = items + n, clicks + len(clicked), gross + int(amounts.sum())
            orders |= {order} if len(bought) else set()
        truth[client] = ClientTruth(arm, (num_sessions, items, clicks, len(orders), gross, refunds))
    return sessions, truth


def fill(
    engine: Engine,
    sessions: Sequence[SessionsRecord],
    *,
    matured_ts: int = LAST_TS,
    plan: Plan | None = None,
    arms: Sequence[Arm] = ARMS,
    weights: Sequence[float] | None = None,
) -> None:
    """Create the experiment `first` and write the sessions, with a progress record at their end.

    The refund window of the default plan is zero, so that net money is mature with everything else.
    """
    plan = plan or Plan()
    if plan.refund_s == Plan().refund_s:
        plan = replace(plan, refund_s=0)
    ExperimentStore(engine).create(key="first", arms=arms, now_ts=0, plan=plan, weights=weights)
    append(engine, sessions, matured_ts=matured_ts)


def append(
    engine: Engine, sessions: Sequence[SessionsRecord], *, matured_ts: int, watermark_ts: int = LAST_TS + 7
) -> None:
    """Write more sessions after those in the database, and a progress record."""
    writer = FactWriter(engine)
    first = writer.open({(topics.SESSIONS, 0): 0})[topics.SESSIONS, 0]
    progress = Progress(partition=0, watermark_ts=watermark_ts, matured_ts=matured_ts, now_ts=watermark_ts, counters={})
    writer.apply(log_of([*sessions, progress], first=first))


def arrays(truth: dict[str, ClientTruth], arm: str) -> NDArray[np.float64]:
    """Return the clients' numbers of one arm, one row each."""
    return np.array([entry.numbers for entry in truth.values() if entry.arm == arm], dtype=np.float64)
