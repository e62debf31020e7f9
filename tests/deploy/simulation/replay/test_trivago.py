import os
from collections import Counter
from hashlib import sha256
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pytest

from deploy.simulation.replay import trivago
from stream.errors import ConfigError
from stream.operations.join_in_memory import Joined, join_in_memory
from stream.schemas import topics
from stream.schemas.events import Click, Conversion, Impression
from tests.deploy.simulation.replay import trivago_log

FILE_NAME = "trivago_sessions_dev.parquet"
SHA256 = "51d6a2b3f8d40ae8b1251e10099f89d6630eec18a34502c83592a96aa4010d1a"


def check_against_batch(path: Path, joined: Joined) -> None:
    """Compare every session, column by column, with the batch join of the file."""
    rows = duckdb.execute(trivago_log.BATCH_JOIN, {"path": str(path)}).fetchall()
    assert rows
    assert {row[0] for row in rows} == set(joined.sessions)
    for query_id, visit, ts, hotels, prices, chosen, per_hotel, _ in rows:
        found = joined.sessions[query_id]
        assert (found.client_id, found.impression_ts) == (visit, ts - 1)
        assert found.item_id == hotels
        assert found.column("rank_in").tolist() == list(range(1, len(hotels) + 1))
        assert found.column("price_minor").tolist() == [100 * int(price) for price in prices]
        assert found.column("clicks").tolist() == [per_hotel.get(hotel, 0) for hotel in hotels], query_id
        assert found.column("orders").tolist() == [int(hotel == chosen) for hotel in hotels]
        bought = [100 * int(price) if hotel == chosen else 0 for hotel, price in zip(hotels, prices, strict=True)]
        assert found.column("gross_minor").tolist() == bought
    counters = joined.counters
    assert counters.get("orphan", 0) == rows[0][-1] == joined.num_unjoined
    assert joined.num_dead == joined.num_open == 0
    assert counters["produced"] == counters["joined"] + counters["orphan"]


@pytest.mark.slow
def test_a_generated_log_joins_as_the_batch_join_does(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    trivago_log.write(path, visits=150, seed=7)
    joined = join_in_memory(trivago.load(path))
    check_against_batch(path, joined)
    assert joined.counters["link_inferred"] > 50
    assert joined.counters["orphan"] > 50


def test_replaying_a_log_twice_adds_only_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    trivago_log.write(path, visits=30, seed=8)
    events = list(trivago.load(path))
    once = join_in_memory(events)
    twice = join_in_memory([event for event in events for _ in range(2)])
    assert twice.counters["duplicate"] >= sum(event.topic != topics.CLICKS for event in events)
    for query_id, found in once.sessions.items():
        assert twice.sessions[query_id].clicks == found.clicks
        assert twice.sessions[query_id].gross_minor == found.gross_minor


@pytest.fixture(scope="module")
def real_log() -> Path:
    folder = os.environ.get("SHELFWISE_DATA")  # noqa: TID251
    path = Path(folder or "", FILE_NAME)
    if not folder or not path.is_file():
        pytest.skip(f"needs {FILE_NAME} in the folder SHELFWISE_DATA: research-only data are not shipped")
    assert sha256(path.read_bytes()).hexdigest() == SHA256, "another excerpt than the one with the counts below"
    return path


@pytest.mark.system
def test_every_click_out_of_the_real_log_is_in_one_session(real_log: Path) -> None:
    events = list(trivago.load(real_log))
    assert Counter(event.topic for event in events) == {
        topics.IMPRESSIONS: 9_665,
        topics.CLICKS: 60_307,
        topics.CONVERSIONS: 9_665,
    }
    joined = join_in_memory(events)
    assert len(joined.sessions) == 9_665
    assert sum(int(found.column("orders").sum()) for found in joined.sessions.values()) == 9_665
    check_against_batch(real_log, joined)


def test_a_click_out_becomes_a_list_a_click_and_a_purchase(tmp_path: Path) -> None:
    row = {
        "user_id": "u",
        "session_id": "v",
        "timestamp": 1_541_600_000,
        "step": 3,
        "action_type": "clickout item",
        "reference": "20",
        "impressions": "10|20",
        "prices": "71|107",
    }
    path = tmp_path / "one.parquet"
    pl.DataFrame([row | dict.fromkeys(set(trivago.COLUMNS) - set(row))], schema=trivago.COLUMNS).write_parquet(path)
    shown, clicked, bought = trivago.load(path)
    impression, click, purchase = (
        msgspec.json.decode(shown.value, type=Impression),
        msgspec.json.decode(clicked.value, type=Click),
        msgspec.json.decode(bought.value, type=Conversion),
    )
    assert [event.key for event in (shown, clicked, bought)] == [b"v"] * 3
    assert impression.event_ts == 1_541_600_000_002
    assert click.event_ts == purchase.event_ts == 1_541_600_000_003
    assert impression.items.price_minor == [7_100, 10_700]
    assert impression.query_id == click.query_id == purchase.items[0].query_id == "v-1541600000-3"
    assert click.position == 2
    assert purchase.items[0].amount_minor == purchase.value_minor == 10_700
    assert len({impression.event_id, click.event_id, purchase.event_id}) == 3


def test_lists_of_earlier_click_outs_are_the_pages_of_a_visit(tmp_path: Path) -> None:
    rows = [
        {
            "user_id": "u",
            "session_id": visit,
            "timestamp": 1_541_600_000 + step,
            "step": step,
            "action_type": action,
            "reference": "20",
            "impressions": "|".join([str(step), "20", *"abcdef"]) if action == trivago.CLICK_OUT else None,
            "prices": "|".join(["71"] * 8) if action == trivago.CLICK_OUT else None,
        }
        for step, (visit, action) in enumerate(
            [("v", trivago.CLICK_OUT), ("v", f"{trivago.INTERACTION} image"), ("w", trivago.CLICK_OUT)]
            + [("v", trivago.CLICK_OUT)] * 6
        )
    ]
    path = tmp_path / "log.parquet"
    table = [row | dict.fromkeys(set(trivago.COLUMNS) - set(row)) for row in rows]
    pl.DataFrame(table, schema=trivago.COLUMNS).write_parquet(path)
    shown = [msgspec.json.decode(e.value, type=Impression) for e in trivago.load(path) if e.topic == topics.IMPRESSIONS]
    found = [each.features.history.pages for each in shown if each.features]
    page = {step: [str(step), "20", *"abcd"] for step in (0, 3, 4, 5, 6, 7)}
    assert found[:4] == [[], [], [page[0]], [page[3], page[0]]]
    assert found[-1] == [page[step] for step in (7, 6, 5, 4, 3)]


def test_refusals_name_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    with pytest.raises(ConfigError, match="does not exist"):
        list(trivago.load(path))
    pl.DataFrame({"session_id": ["v"]}).write_parquet(path)
    with pytest.raises(ConfigError, match=r"columns .*'timestamp'.* are missing"):
        list(trivago.load(path))
