"""Seeded facts of one experiment, written straight into the tables as the sink would, in numbers that a bench needs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, insert

from abtest.experiment import Arm
from abtest.plan import Plan
from abtest.store import ExperimentStore
from abtest.tables import client_orders, exposures, session_facts, session_orders, sink_offsets
from stream import db
from stream.schemas.times import DAY_MS
from tests.bench.session_file import SESSIONS_EACH

EXPERIMENT = "bench"
ARMS = (Arm(name="control", lineage="prm", is_control=True), Arm(name="treatment", lineage="armmt"))
START_TS, SPAN_MS = 1_000_000, 14 * DAY_MS
_CHUNK = 50_000
_EVIDENCE = bytes(range(180))


def fill(engine: Engine, num_sessions: int, seed: int = 7) -> None:
    """Write an experiment of two arms: 4.5 sessions of a client, clicks in 30 % of them, an order in 3 %."""
    random = np.random.default_rng(seed)
    num_clients = round(num_sessions / SESSIONS_EACH)
    client_N = random.integers(0, num_clients, num_sessions)
    shown_N = np.sort(random.integers(START_TS, START_TS + SPAN_MS, num_sessions))
    clicks_N = random.binomial(1, 0.3, num_sessions) * (1 + random.poisson(0.5, num_sessions))
    money_N = np.where(random.random(num_sessions) < 0.03, np.exp(random.normal(8, 1, num_sessions)), 0).astype(int)
    plan = Plan(primary="cvr", goals=("ctr", "cvr", "gmv"), refund_s=7 * 86_400, currency="EUR")
    ExperimentStore(engine).create(key=EXPERIMENT, arms=ARMS, now_ts=START_TS, plan=plan)
    for start in range(0, num_sessions, _CHUNK):
        part = slice(start, start + _CHUNK)
        rows = list(_rows(start, client_N[part], shown_N[part], clicks_N[part], money_N[part]))
        with db.transaction(engine) as connection:
            connection.execute(insert(session_facts), [fact for fact, _ in rows])
            bought = [order for _, order in rows if order is not None]
            connection.execute(insert(client_orders), bought)
            linked = [
                {"query_id": order["transaction_id"], "transaction_id": order["transaction_id"]} for order in bought
            ]
            connection.execute(insert(session_orders), linked)
    first_N = np.full(num_clients, -1)
    order_N = np.arange(num_sessions)[::-1]
    first_N[client_N[order_N]] = order_N
    seen = np.flatnonzero(first_N >= 0)
    end_ts = START_TS + SPAN_MS
    with db.transaction(engine) as connection:
        connection.execute(
            insert(exposures), [_exposure(int(client), int(shown_N[first_N[client]])) for client in seen]
        )
        offsets = {"sink": "facts", "topic": "sessions", "partition": 0, "next_offset": num_sessions}
        connection.execute(insert(sink_offsets).values(**offsets, watermark_ts=end_ts + 9, matured_ts=end_ts))


def _arm(client: int) -> str:
    return ARMS[client % 2].name


def _rows(
    start: int,
    client_N: NDArray[np.int64],
    shown_N: NDArray[np.int64],
    clicks_N: NDArray[np.int64],
    money_N: NDArray[np.int64],
) -> Iterator[tuple[dict[str, object], dict[str, object] | None]]:
    for number, (client, shown_ts, clicks, money) in enumerate(
        zip(client_N.tolist(), shown_N.tolist(), clicks_N.tolist(), money_N.tolist(), strict=True), start
    ):
        query_id = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
        fact: dict[str, object] = {
            "query_id": query_id,
            "revision": 1,
            "client_id": _client(client),
            "session_id": f"s{number}",
            "experiment": EXPERIMENT,
            "arm": _arm(client),
            "epoch": 1,
            "bucket": client % 10_000,
            "lineage": "prm",
            "version": f"{shown_ts // 3_600_000:08d}",
            "fallback": None,
            "impression_ts": shown_ts,
            "watermark_ts": shown_ts,
            "currency": "EUR",
            "n_items": 30,
            "clicks": clicks,
            "carts": 0,
            "orders": int(money > 0),
            "units": int(money > 0),
            "gross_minor": money,
            "refund_minor": 0,
            "foreign_lines": 0,
            "evidence": _EVIDENCE if clicks else b"",
            "latency_us": 9_000 + number % 1_000,
            "slice": None,
        }
        order: dict[str, object] | None = None
        if money:
            order = {
                "client_id": _client(client),
                "transaction_id": query_id,
                "bought_ts": shown_ts + 60_000,
                "currency": "EUR",
                "gross_minor": money,
                "refund_minor": 0,
                "linked_lines": 1,
                "unlinked_lines": 0,
                "foreign_lines": 0,
            }
        yield fact, order


def _client(number: int) -> str:
    return f"c{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def _exposure(client: int, first_ts: int) -> dict[str, object]:
    return {
        "experiment": EXPERIMENT,
        "client_id": _client(client),
        "layer": "ranker",
        "arm": _arm(client),
        "epoch": 1,
        "bucket": client % 10_000,
        "first_ts": first_ts,
        "query_id": "q",
        "lineage": "prm",
        "version": "1",
        "fallback": None,
        "triggered": None,
        "multi_arm": False,
    }
