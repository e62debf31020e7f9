"""Shoppers wait while a trainer is behind the sink."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from abtest.fact_writer import SINK
from abtest.tables import sink_offsets
from deploy.demo import backpressure
from deploy.demo.backpressure import Backpressure
from stream import db
from stream.schemas import topics
from tests.harness.stores import new_store

NOW_MS = 10_000_000


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = db.create(new_store(tmp_path / "test.db"))
    yield engine
    engine.dispose()


def read_by_sink(engine: Engine, partition: int, watermark_ms: int) -> None:
    """Let the sink have read a partition up to a watermark."""
    row = {
        "sink": SINK,
        "topic": topics.SESSIONS,
        "partition": partition,
        "next_offset": 1,
        "watermark_ts": watermark_ms,
        "matured_ts": watermark_ms,
    }
    with engine.begin() as connection:
        connection.execute(sink_offsets.insert().values(row))


def test_shoppers_wait_until_the_slowest_trainer_is_near(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    at_ms, said, now_s = {1: NOW_MS, 2: NOW_MS}, [], [0.0]
    monkeypatch.setattr(backpressure, "watermark_ms", at_ms.__getitem__)
    own = Backpressure(
        engine,
        at_ms,
        1_000,
        monotonic_s=lambda: now_s[0],
        pause=lambda: said.append("pause"),
        go_on=lambda: said.append("go on"),
    )

    def look(port: int, watermark_ms: int) -> list[str]:
        at_ms[port] = watermark_ms
        now_s[0] += 1.0
        own.look()
        return said

    assert look(1, 0) == [], "there are no facts yet"
    read_by_sink(engine, 0, NOW_MS)
    # A partition that is further moves no trainer, whose watermark is the least of all partitions.
    read_by_sink(engine, 1, NOW_MS + 480_000)
    assert look(1, NOW_MS - 1_000) == []
    assert look(2, NOW_MS - 1_001) == ["pause"]
    assert look(2, NOW_MS) == ["pause"], "the other one is behind by more than half of the largest lag"
    assert look(1, NOW_MS - 501) == ["pause"]
    assert look(1, NOW_MS - 500) == ["pause", "go on"]
