"""The wait for the join behind a replay."""

import pytest

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.operations.recorded_events import wait_for_join
from stream.schemas import session, topics
from stream.schemas.session import Progress
from tests.harness.kafka import PARTITIONS


@pytest.mark.kafka
def test_a_tick_that_was_read_ahead_of_the_events_is_no_end(fresh_kafka: Broker) -> None:
    with Producer(fresh_kafka) as producer:
        for partition in range(PARTITIONS):
            watermark_ts = 1_000 if partition else 999
            progress = Progress(partition=partition, watermark_ts=watermark_ts, matured_ts=0, now_ts=5_000, counters={})
            producer.send(topics.SESSIONS, key=None, value=session.encode(progress), partition=partition)
    now_s = 0.0

    def pass_time(num_finished: int, num_partitions: int) -> None:
        """Let patience end some polls after all partitions have been read but the one that is behind."""
        nonlocal now_s
        now_s += 7 * (num_finished == num_partitions - 1)

    for watermark_ts, behind in ((1_000, [0]), (999, [])):
        found = wait_for_join(fresh_kafka, watermark_ts, patience_s=20, on_wait=pass_time, monotonic=lambda: now_s)
        assert found == behind
