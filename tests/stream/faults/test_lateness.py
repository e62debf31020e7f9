"""S13: one client in twenty an hour off, and the others' clicks at the end of their windows up to 59 s on their way."""

import numpy as np
import pytest

from stream.schemas.events import Impression
from tests.laws.join_log import Event, click, impression
from tests.stream.faults.fault_log import SHOPPERS, log_of, on_time
from tests.stream.faults.test_clocks import END_TS, _in_order, _with_wrong_clocks


@pytest.mark.slow
@pytest.mark.parametrize("max_delay_ms", [20_000, 59_000])
def test_s13_wrong_clocks_do_not_use_up_the_lateness_of_others(max_delay_ms: int) -> None:
    """S13: other clients' sessions changed = 0, also for events that are late within the lateness."""
    random = np.random.default_rng(13)
    happened: list[Event] = []
    for number in range(3_000):
        client, at_s = SHOPPERS[int(random.integers(len(SHOPPERS)))], int(random.integers(3_600))
        happened.append(impression(number, client=client, at_s=at_s))
        click_s = at_s + int(random.integers(840, 899))
        happened.append(click(number, number, "item-1", client=client, at_s=click_s, at_ms=number % 999 + 1))
    sent = on_time(happened, seed=13, max_delay_ms=max_delay_ms)
    skewed, wrong = _with_wrong_clocks(happened, sent, 13)
    clean, _ = _in_order(log_of(sent, end_ts=END_TS))
    result, _ = _in_order(log_of(skewed, end_ts=END_TS))
    before, after = clean.outputs.final(), result.outputs.final()
    others = [e.query_id for e in happened if isinstance(e, Impression) and e.client_id not in wrong]
    assert len([query_id for query_id in others if before[query_id] != after[query_id]]) == 0
