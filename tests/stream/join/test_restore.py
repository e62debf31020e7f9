"""A restart rolls back to the progress row."""

import pytest

from stream.schemas import topics
from tests.laws.join_log import (
    Log,
    Outputs,
    Tables,
    impression,
    purchase,
    reversal,
    send,
)


@pytest.mark.parametrize("restarts_after", [topics.IMPRESSIONS, topics.CONVERSIONS, topics.TICKS])
def test_an_event_that_an_impression_let_join_does_not_join_again_after_a_restart(restarts_after: str) -> None:
    """An order and its refund arrive before their list: both wait, and both join when the list arrives."""
    order = purchase(1, 1, ["item-2"], at_s=60)
    refund = reversal(order, 1, after_s=30)
    refund.query_id = order.query_id
    log = Log.of(send(event) for event in (impression(1), order, refund))
    tables, outputs = Tables(), Outputs()
    join = tables.join()
    for topic in (topics.CONVERSIONS, topics.IMPRESSIONS, topics.TICKS):
        outputs.take(join.apply(log.records[topic]))
        if topic == restarts_after:
            join = tables.join()
    assert join.counters["joined"] == join.counters["produced"] == 3
    assert join.waiting_events == 0
    last = outputs.sessions()[-1]
    assert [line.action for line in last.lines] == ["purchase", "refund"]
