"""A first attempt at a join: kafka-python, a dictionary, automatic commits.

A list is closed, with the clicks that have come, when the newest event of its partition is a window past it. No
changelog, no watermark, no deduplication: a crash loses what is open.

Usage: naive_joiner.py BOOTSTRAP GROUP
"""

import sys
from collections import defaultdict, deque

import msgspec
from kafka import KafkaConsumer, KafkaProducer

WINDOW_MS = 900_000


def main(bootstrap: str, group: str) -> None:
    """Join until the process is ended."""
    consumer = KafkaConsumer(
        "impressions",
        "clicks",
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=1_000,
        max_poll_records=2_000,
    )
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5)
    shown: dict[str, tuple[int, int, dict[str, object]]] = {}
    clicks: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    order: defaultdict[int, deque[str]] = defaultdict(deque)
    newest: defaultdict[int, int] = defaultdict(int)
    while True:
        for tp, records in consumer.poll(timeout_ms=200).items():
            for record in records:
                try:
                    event = msgspec.json.decode(record.value)
                except msgspec.DecodeError:
                    continue
                query_id = event["query_id"]
                newest[tp.partition] = max(newest[tp.partition], event["event_ts"])
                if tp.topic == "impressions":
                    shown[query_id] = (event["event_ts"], tp.partition, event)
                    order[tp.partition].append(query_id)
                else:
                    clicks[query_id].append(event)
            waiting = order[tp.partition]
            while waiting and (known := shown.get(waiting[0])) is None:
                waiting.popleft()
            while waiting and (known := shown.get(waiting[0])) and known[0] + WINDOW_MS <= newest[tp.partition]:
                query_id = waiting.popleft()
                del shown[query_id]
                session = {**known[2], "clicks": clicks.pop(query_id, [])}
                producer.send(
                    "naive-sessions",
                    key=str(known[2]["client_id"]).encode(),
                    value=msgspec.json.encode(session),
                    partition=tp.partition,
                )


if __name__ == "__main__":
    main(*sys.argv[1:3])
