"""Session records for tests of the readers of the `sessions` topic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.schemas import session, topics
from stream.schemas.session import AssignedArm, Evidence, Line, Session, SessionsRecord, UnlinkedLine


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of the `sessions` topic as readers hand it out."""

    partition: int
    offset: int
    value: bytes | None
    topic: str = topics.SESSIONS
    timestamp: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def log_of(contents: Sequence[SessionsRecord | bytes], *, partition: int = 0, first: int = 0) -> list[LogRecord]:
    """Return the contents as consecutive records of one partition."""
    return [
        LogRecord(partition, first + index, content if isinstance(content, bytes) else session.encode(content))
        for index, content in enumerate(contents)
    ]


def click(event_id: str, item: int, event_ts: int = 2_000) -> Evidence:
    """Return a click on an item."""
    return Evidence(event_id, "click", item, event_ts, event_ts, topics.CLICKS, 0, 0, "query_id")


def purchase(
    transaction_id: str,
    item: int,
    amount_minor: int,
    *,
    quantity: int = 1,
    currency: str = "EUR",
    event_ts: int = 3_000,
) -> Line:
    """Return a bought order line."""
    return Line(transaction_id, f"l{item}", "", "purchase", item, quantity, amount_minor, currency, event_ts)


def refund(transaction_id: str, item: int, amount_minor: int, *, refund_id: str = "r1", event_ts: int = 4_000) -> Line:
    """Return a refunded order line."""
    return Line(transaction_id, f"l{item}", refund_id, "refund", item, 1, amount_minor, "EUR", event_ts)


def unlinked(
    client_id: str,
    transaction_id: str,
    amount_minor: int = 500,
    *,
    line_id: str = "l1",
    refund_id: str = "",
    currency: str = "EUR",
    event_ts: int = 3_000,
) -> UnlinkedLine:
    """Return an order line without a session, or its refund."""
    return UnlinkedLine(
        client_id=client_id,
        session_id=None,
        user_id=None,
        event_id=f"v-{transaction_id}",
        event_ts=event_ts,
        append_ts=event_ts + 1,
        transaction_id=transaction_id,
        line_id=line_id,
        refund_id=refund_id,
        action="refund" if refund_id else "purchase",
        object_id="item-1",
        quantity=1,
        amount_minor=amount_minor,
        currency=currency,
        reason="no_click",
        source="test",
        src=(0, 7),
    )


def make_session(
    query_id: str,
    client_id: str,
    *,
    arm: str | None = "control",
    experiment: str = "first",
    impression_ts: int = 1_000,
    revision: int = 0,
    n: int = 10,
    events: Sequence[Evidence] = (),
    lines: Sequence[Line] = (),
    version: str | None = "1",
    fallback: str | None = None,
    latency_us: int = 0,
    currency: str = "EUR",
) -> Session:
    """Return a session of one list of `n` items in the ranker layer."""
    clicks = np.zeros(n, "<u2")
    for event in events:
        clicks[event.item] += event.action == "click"
    gross = np.zeros(n, "<i8")
    orders = np.zeros(n, "<u2")
    for line in lines:
        if line.action == "purchase":
            gross[line.item] += line.amount_minor
            orders[line.item] += 1
    assigned = [] if arm is None else [AssignedArm("ranker", experiment, 1, arm, 17)]
    return Session(
        query_id=query_id,
        client_id=client_id,
        session_id=None,
        user_id=None,
        revision=revision,
        reason="close" if revision == 0 else "conversion",
        label_key=bytes(8),
        impression_ts=impression_ts,
        close_ts=impression_ts + 900_000,
        watermark_ts=impression_ts + 900_000,
        src=(0, 0),
        query_hash="q",
        query_category=None,
        currency=currency,
        assignment=assigned,
        lineage="prm-1",
        version=version,
        fallback=fallback,
        latency_us=latency_us,
        triggered=None,
        n=n,
        item_id=[f"i{index}" for index in range(n)],
        rank_in=np.arange(1, n + 1, dtype="<u2").tobytes(),
        score=b"",
        price_minor=np.full(n, 1_000, "<i8").tobytes(),
        propensity=b"",
        feature_schema=b"",
        item_f16=b"",
        context_f16=b"",
        hist_item=[],
        hist_category=[],
        hist_action=b"",
        hist_age_s=b"",
        clicks=clicks.tobytes(),
        carts=np.zeros(n, "<u2").tobytes(),
        orders=orders.tobytes(),
        units=np.zeros(n, "<u4").tobytes(),
        click_delay_ms=np.full(n, -1, "<i8").tobytes(),
        order_delay_ms=np.full(n, -1, "<i8").tobytes(),
        gross_minor=gross.tobytes(),
        refund_minor=np.zeros(n, "<i8").tobytes(),
        changed=b"",
        events=list(events),
        lines=list(lines),
    )
