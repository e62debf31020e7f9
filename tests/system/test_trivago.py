"""The hotel-search log through the real commands, broker and worker, against a batch join of its file."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import msgspec
import pytest

from stream.broker.settings import Broker
from stream.schemas import topics
from tests.deploy.simulation.replay import trivago_log
from tests.harness.demo import ROOT
from tests.harness.worker import running, wait_until_committed

pytestmark = [pytest.mark.kafka, pytest.mark.system]
FILE_NAME = "trivago_sessions_dev.parquet"
SPEED = 2_000
# One clock stamped the log.
SETTINGS = {"SHELFWISE_JOIN__CLOCK_TOLERANCE_S": "0"}
Row = dict[str, object]


class _Commands:
    """Commands of Shelfwise against one broker."""

    def __init__(self, broker: Broker, home: Path) -> None:
        inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
        self._environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
        self._environment |= {"SHELFWISE_BROKER": broker.bootstrap, "SHELFWISE_HOME": str(home), **SETTINGS}

    def run(self, *argv: str) -> Row:
        """Run a command that must succeed and return the document that it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy", *argv, "--json"],
            env=self._environment,
            capture_output=True,
            cwd=ROOT,
            check=False,
        )
        words = f"{argv} ended with code {done.returncode}:\n{done.stdout.decode()[-2_000:]}\n{done.stderr.decode()}"
        assert done.returncode == 0, words
        printed: Row = msgspec.json.decode(done.stdout)
        return printed

    def export(self, topic: str, out: Path, *options: str) -> list[Row]:
        printed = self.run("stream", "export", topic, "--out", str(out), *options)
        rows = [json.loads(line) for line in out.read_bytes().splitlines()]
        assert printed["rows"] == len(rows)
        return rows


def test_a_generated_log_joins_on_kafka_as_in_a_batch(fresh_kafka: Broker, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    trivago_log.write(path, visits=400, seed=3)
    produced = _replay_and_compare(fresh_kafka, tmp_path, path)
    assert produced[topics.IMPRESSIONS] > 1_000


def test_the_real_log_joins_on_kafka_as_in_a_batch(fresh_kafka: Broker, tmp_path: Path) -> None:
    folder = os.environ.get("SHELFWISE_DATA")  # noqa: TID251
    path = Path(folder or "", FILE_NAME)
    if not folder or not path.is_file():
        pytest.skip(f"needs {FILE_NAME} in the folder SHELFWISE_DATA: research-only data are not shipped")
    produced = _replay_and_compare(fresh_kafka, tmp_path, path)
    assert produced == {topics.IMPRESSIONS: 9_665, topics.CLICKS: 60_307, topics.CONVERSIONS: 9_665}


def _replay_and_compare(broker: Broker, folder: Path, path: Path, *options: str) -> dict[str, int]:
    commands = _Commands(broker, folder / "home")
    with running(broker, folder / "home", settings=SETTINGS) as worker:
        sent = commands.run("stream", "replay", "trivago", "--path", str(path), "--speed", str(SPEED), *options)
        wait_until_committed(broker, worker, timeout_s=300)
        assert worker.stop() == 0, worker.log
    produced = msgspec.convert(sent["produced"], dict[str, int])
    revisions = commands.export("sessions", folder / "sessions.jsonl")
    newest = commands.export("sessions", folder / "newest.jsonl", "--latest")
    _check_revisions(revisions, newest)
    _check_sessions(newest, duckdb.execute(trivago_log.BATCH_JOIN, {"path": str(path)}).fetchall())
    left = commands.export("unjoined", folder / "unjoined.jsonl")
    _check_left(left, duckdb.execute(trivago_log.BATCH_LEFT, {"path": str(path)}).fetchall())
    assert commands.export("dead_letters", folder / "dead.jsonl") == []
    counted = commands.run("stream", "recount")
    assert counted["is_closed"] is True
    assert (counted["produced"], counted["orphan"]) == (sum(produced.values()), len(left))
    assert (counted["duplicate"], counted["late"], counted["dead"], counted["open"], counted["lost"]) == (0,) * 5
    assert counted["joined"] == sum(produced.values()) - len(left)
    assert commands.run("stream", "verify")["is_equal"] is True
    sys.stderr.write(f"{path.name}: {sent}, {len(revisions)} records of {len(newest)} sessions, {counted}\n")
    return produced


def _check_revisions(revisions: Iterable[Row], newest: Iterable[Row]) -> None:
    """No revision of a session is emitted twice, and the newest ones are what `--latest` keeps."""
    seen = Counter((row["query_id"], row["revision"]) for row in revisions)
    assert set(seen.values()) == {1}
    highest: dict[object, int] = {}
    for query_id, revision in seen:
        assert isinstance(revision, int)
        highest[query_id] = max(revision, highest.get(query_id, 0))
    assert {row["query_id"]: row["revision"] for row in newest} == highest


def _check_sessions(newest: Sequence[Row], batch: Sequence[Sequence[object]]) -> None:
    """Every click-out of the file is in exactly one session, with the same list, clicks, order and money."""
    found = {str(row["query_id"]): row for row in newest}
    assert len(found) == len(newest) == len(batch)
    for query_id, visit, ts, hotels, prices, chosen, per_hotel, _ in batch:
        row = found[str(query_id)]
        assert isinstance(ts, int)
        assert isinstance(hotels, list)
        assert isinstance(prices, list)
        assert isinstance(per_hotel, dict)
        cents = [100 * int(price) for price in prices]
        is_chosen = [int(hotel == chosen) for hotel in hotels]
        expected = {
            "client_id": visit,
            "impression_ts": ts - 1,
            "item_id": hotels,
            "rank_in": list(range(1, len(hotels) + 1)),
            "price_minor": cents,
            "clicks": [per_hotel.get(hotel, 0) for hotel in hotels],
            "orders": is_chosen,
            "gross_minor": [amount * bought for amount, bought in zip(cents, is_chosen, strict=True)],
        }
        assert {name: row[name] for name in expected} == expected, query_id


def _check_left(letters: Sequence[Row], batch: Sequence[Sequence[object]]) -> None:
    """An interaction that is in no session is in `unjoined` once, because it has no list."""
    found = []
    for letter in letters:
        event = json.loads(str(letter["value"]))
        assert letter["topic"] == topics.CLICKS
        assert event.get("query_id") is None
        found.append((event["client_id"], event["event_ts"], event["object_id"]))
    assert sorted(found) == [tuple(row) for row in batch]
