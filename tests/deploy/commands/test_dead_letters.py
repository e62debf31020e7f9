"""`shelfwise stream dead-letters` on a real Kafka and a real join worker."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from stream.broker.partitioner import partition_of
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.settings import JoinSettings
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import events, topics
from stream.schemas.events import MAX_EVENT_BYTES
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import pass_all_windows, running, tick, wait_until_committed
from tests.laws.join_log import CLIENTS, START_TS, click, impression
from tests.stream.operations.test_redrive import of_tomorrow

LAST = CLIENTS[0].encode()
HERE = partition_of(LAST, PARTITIONS)
SETTINGS = JoinSettings(ticks="driver")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setenv("SHELFWISE_PRIVACY__QUERY_HASH_KEY", "golden")
    return tmp_path


def dead_letters(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stream", "dead-letters", *arguments], terminal_width=200)


def document(*arguments: str) -> dict[str, object]:
    done = dead_letters(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return msgspec.json.decode(done.stdout, type=dict[str, object])


def _books(broker: Broker) -> dict[str, int]:
    names = (*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS)
    records = [record for name in names for record in read_to_end(broker, name)]
    counted = recount(records, SETTINGS)
    assert counted.is_closed
    assert counted.open == counted.lost == 0
    assert verify(records, SETTINGS).is_equal
    return counted.reasons | {"joined": counted.joined, "duplicate": counted.duplicate, "produced": counted.produced}


@pytest.mark.kafka
def test_redriven_letters_end_where_they_belong(
    fresh_kafka: Broker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    newer = of_tomorrow(click(3, 1, "item-0", at_s=7))
    with Producer(fresh_kafka) as producer:
        producer.send(topics.IMPRESSIONS, key=LAST, value=events.encode(impression(1)))
        astray = (HERE + 1) % PARTITIONS
        astray_click = events.encode(click(2, 1, "item-2", at_s=6))
        producer.send(topics.CLICKS, key=LAST, value=astray_click, partition=astray)
        producer.send(topics.CLICKS, key=b"another key", value=newer)
        producer.send(topics.CLICKS, key=LAST, value=b"\x1b[2J" + b"x" * MAX_EVENT_BYTES)
        producer.send(topics.CLICKS, key=LAST, value=events.encode(click(4, 2, "item-1", at_s=8)))
    (home / "events").write_bytes(b'{"event": "ranking"}\n')
    ingested = CliRunner().invoke(app, ["stream", "ingest", "--format", "metarank", str(home / "events")])
    assert ingested.exit_code == 1, "no event of the file could be used"
    with running(fresh_kafka, home / "worker") as worker:
        for seq, at_s in enumerate((400, 500)):
            tick(fresh_kafka, START_TS + at_s * 1_000, seq)
        wait_until_committed(fresh_kafka, worker)

        found = document("list")
        assert found["reasons"] == {"misrouted": 1, "schema_unknown": 1, "too_large": 1, "missing_field": 1}
        assert document("list", "--topic", "unjoined")["reasons"] == {"no_impression": 1}
        assert document("list", "--reason", "misrouted", "--to", "2020-01-01T00:00Z")["dead_letters"] == 0
        assert document("list", "--reason", "misrouted", "--from", "2020-01-01T00:00+02:00")["dead_letters"] == 1
        shown = dead_letters("list")
        assert f"clicks/{astray}/0" in shown.stdout
        assert "item-2" not in shown.output, "payloads are for `show`"
        shown = dead_letters("show", "clicks", str(astray), "0")
        assert astray_click.decode() in shown.stdout
        assert "reason: misrouted" in shown.stdout

        assert document("redrive", "--dry-run")["records"] == {"clicks": 2}
        assert document("list")["dead_letters"] == 4
        sent = document("redrive", "--rate", "50")
        assert (sent["dead_letters"], sent["records"]) == (2, {"clicks": 2})
        assert sent["refused"] == {"payload_cut": 1, "rejected_as_before": 1}
        with Producer(fresh_kafka) as producer:
            producer.send(topics.IMPRESSIONS, key=LAST, value=events.encode(impression(2, at_s=1)))
        # Past its deadline a click is decided when it is read, and two topics are read in any order.
        wait_until_committed(fresh_kafka, worker)
        assert document("redrive", "--topic", "unjoined")["records"] == {"clicks": 1}
        tick(fresh_kafka, START_TS + 600_000, 10)
        wait_until_committed(fresh_kafka, worker)
        pass_all_windows(fresh_kafka, START_TS + 700_000)
        wait_until_committed(fresh_kafka, worker)

    assert document("redrive", "--reason", "misrouted")["refused"] == {"already_redriven": 1}
    (again,) = [record for record in read_to_end(fresh_kafka, topics.CLICKS) if record.partition == HERE
                and dict(record.headers).get("redriven_from") == f"clicks/{astray}/0".encode()]  # fmt: skip
    assert (again.key, again.value) == (LAST, astray_click)
    assert _books(fresh_kafka) == {
        "produced": 2 + 4 + 3,
        "joined": 2 + 2,
        "duplicate": 0,
        "misrouted": 1,
        "schema_unknown": 2,
        "too_large": 1,
        "no_impression": 1,
    }


def test_bad_arguments_are_named() -> None:
    for arguments, named in (
        (("list", "--from", "yesterday"), "neither ISO 8601"),
        (("list", "--to", "2026-01-01T00:00"), "no zone"),
        (("list", "--reason", "bad_luck"), "none of"),
        (("redrive", "--rate", "0"), "--rate"),
    ):
        refused = dead_letters(*arguments)
        assert refused.exit_code == 2, arguments
        assert named in refused.output.replace("\n", " "), refused.output
