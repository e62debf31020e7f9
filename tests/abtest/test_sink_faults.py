"""S15, the kill: PostgreSQL dies under the running sink, which waits for it and loses nothing."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from stream.broker.settings import Broker
from tests.harness.postgres import own_server
from tests.harness.proxy import Proxy
from tests.harness.sink import (
    Feeder,
    check_back_off,
    check_facts,
    corrected_sessions,
    produce,
    reading,
    running,
    wait_for,
    wait_until_applied,
    wait_until_drained,
)

SEED = 1_501
OUTAGE_S = 2.0
NUM_BEFORE = 200


@pytest.mark.kafka
@pytest.mark.postgres
def test_the_sink_waits_for_a_killed_database(fresh_kafka: Broker, tmp_path: Path) -> None:
    contents = corrected_sessions(SEED, 400)
    produce(fresh_kafka, contents[:NUM_BEFORE])
    feeder = Feeder(fresh_kafka, contents[NUM_BEFORE:], per_s=300)
    with own_server() as server, Proxy(server.port) as proxy, reading(server.url) as engine:
        with running(fresh_kafka, proxy.through(server.url), tmp_path) as sink, ExitStack() as feeding:
            wait_until_applied(sink, NUM_BEFORE)
            feeding.enter_context(feeder)
            wait_until_applied(sink, 2 * NUM_BEFORE)
            before, killed_s = len(proxy.opened_s), time.monotonic()
            server.kill()
            wait_for("an attempt that fails", lambda: len(proxy.opened_s) > before, sink=sink)
            wait_for("the outage", lambda: time.monotonic() > killed_s + OUTAGE_S, sink=sink)
            server.start()
            outage_s = time.monotonic() - killed_s
            drained_s = wait_until_drained(fresh_kafka, engine, sink)
            wait_for("the end of the feed", lambda: feeder.is_done, sink=sink)
            wait_until_drained(fresh_kafka, engine, sink)
            num_retries = sink.metric("shelfwise_sink_retries_total")
            assert sink.stop() == 0, sink.log
        check_facts(fresh_kafka, engine, context=f"seed {SEED}")
    assert num_retries >= 1
    check_back_off(proxy.opened_s[before:], context=f"seed {SEED}")
    assert drained_s <= 2 * outage_s
