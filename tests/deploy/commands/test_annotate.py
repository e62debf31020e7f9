"""Pages out and judgements in, on a real Kafka; what is wrong is refused before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from deploy.cli import app
from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.replicas.catalogue import publish
from stream.schemas import session, topics
from stream.schemas.events import Item, encode
from stream.schemas.identity import query_hash
from tests.trainer.annotation.test_scored_lists import IMPRESSION, scored

KEY = "a key of the test"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["trainer", "annotate", *map(str, arguments)], terminal_width=200)


def answer(*arguments: object) -> Any:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def logged(fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Three sessions with scores, one of them of another query, and one impression."""
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    monkeypatch.setenv("SHELFWISE_PRIVACY__QUERY_HASH_KEY", KEY)
    with Producer(fresh_kafka) as producer:
        for number in range(3):
            value = replace(scored(f"q-{number}"), query_hash=query_hash("red shoes", KEY.encode()) if number else "x")
            producer.send(topics.SESSIONS, key=b"c-1", value=session.encode(value))
        producer.send(topics.IMPRESSIONS, key=b"c-1", value=encode(IMPRESSION))
        publish(producer, [Item(item_id="i0", title="A shoe", price_minor=1, currency="EUR", updated_ts=1)])
    return fresh_kafka


@pytest.mark.kafka
def test_pages_go_out_and_judgements_come_back_once(logged: Broker, tmp_path: Path) -> None:
    out, texts = tmp_path / "pages.jsonl", tmp_path / "queries.txt"
    texts.write_text("Red shoes\nnever asked\n")
    made = answer("export", out, "--p", ".34", "--queries", texts)
    assert made == {"budget": "p34", "pages": 2, "items": 2, "left_out": {"of another query": 1}, "out": str(out)}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["query_id"] for row in rows} == {"q-1", "q-2"}
    assert {(row["item_id"], row["title"], row["query"], row["num_items"]) for row in rows} == {
        ("i0", "A shoe", "Red shoes", 3)
    }

    def judge(*grades: int | None) -> None:
        lines = [json.dumps(row | {"grade": g, "seconds": 2}) for row, g in zip(rows, grades, strict=True)]
        out.write_text("\n".join(lines))

    judge(3, 12)
    refused = call("import", out, "--annotator", "ann")
    assert refused.exit_code == 1
    assert "line 2: grade: Expected `int` <= 9, got 12" in refused.output
    assert "1 lines of" in refused.output
    (fault,) = json.loads(call("import", out, "--annotator", "ann", "--json").stdout)["refused"]
    assert fault == {"line": 2, "fault": "grade: Expected `int` <= 9, got 12"}
    assert end_offsets(logged, [topics.ANNOTATIONS]) == {(topics.ANNOTATIONS, 0): 0}

    judge(3, 2)
    out.write_text(out.read_text().replace('"i0"', '"i9"', 1))
    refused = call("import", out, "--annotator", "ann")
    assert refused.exit_code == 1
    assert f"line 1: item_id: the list of query '{rows[0]['query_id']}' has no item 'i9'" in refused.output
    assert end_offsets(logged, [topics.ANNOTATIONS]) == {(topics.ANNOTATIONS, 0): 0}

    judge(3, None)
    assert answer("import", out, "--annotator", "ann") == {
        "sent": 1,
        "known": 0,
        "without_grade": 1,
        "refused": [],
        "unplaced": 0,
        "lost": 0,
    }
    assert answer("import", out, "--annotator", "ann")["known"] == 1
    assert end_offsets(logged, [topics.ANNOTATIONS]) == {(topics.ANNOTATIONS, 0): 1}
    (cost,) = answer("ledger")
    assert (cost["budget"], cost["judgements"], cost["full_judgements"], cost["seconds"]) == ("p34", 1, 3, 2)
    assert cost["full_seconds"] == 6
    shown = call("ledger").stdout
    assert "33.3%" in shown
    assert "6 (estimated)" in shown

    # A further export under the budget leaves out what is judged; an impression is a list too.
    further = answer("export", tmp_path / "more.csv", "--p", ".34")
    assert (further["pages"], further["left_out"]) == (2, {"judged already": 1})
    out = tmp_path / "shown.jsonl"
    assert answer("export", out, "--p", "1", "--topic", "impressions")["items"] == 3
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    judge(1, 1, 1)
    sent = call("import", out, "--annotator", "ann").output
    assert "3 judgements sent" in sent
    assert "3 of them cannot be learned: they name no record of sessions (line 1 first)" in sent
    nothing = call("export", tmp_path / "none.csv", "--lineage", "other")
    assert nothing.exit_code == 1
    assert "3 records left out: ranked by another lineage" in nothing.output
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.kafka
def test_anchors_are_asked_for_round_by_round(logged: Broker, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    typed = replace(scored("q-9"), item_type=["product", "product", "video"])
    with Producer(logged) as producer:
        producer.send(topics.SESSIONS, key=b"c-1", value=session.encode(typed))
    made = answer("export", first, "--anchors")
    assert made == {
        "budget": "anchors",
        "pages": 1,
        "items": 2,
        "left_out": {"of one item type": 3},
        "out": str(first),
    }
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert {(row["item_id"], row["num_items"], row["budget"]) for row in rows} == {
        ("i1", 3, "anchors"),
        ("i2", 3, "anchors"),
    }
    first.write_text("\n".join(json.dumps(row | {"grade": 2}) for row in rows if row["item_id"] == "i1"))
    answer("import", first, "--annotator", "ann")
    assert answer("export", second, "--anchors")["items"] == 1
    (asked,) = [json.loads(line) for line in second.read_text().splitlines()]
    assert asked["item_id"] == "i2"
    second.write_text(json.dumps(asked | {"grade": 4}))
    answer("import", second, "--annotator", "ann")
    ended = call("export", tmp_path / "third.csv", "--anchors")
    assert ended.exit_code == 1
    assert "1 records left out: anchored already" in ended.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--p", "0"], "--p 0.0: expected more than 0 and at most 1"),
        (["--p", "1.1"], "--p 1.1: expected more than 0"),
        (["--p", "nan"], "--p nan: expected more than 0"),
        (["--anchors", "--p", ".3"], "--p 0.3: expected none with --anchors"),
        (["--budget", "a b"], "--budget = 'a b': expected up to 64"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = call("export", tmp_path / "pages.csv", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_a_file_without_a_grade_is_no_file_of_judgements(tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": "b"}\n')
    done = call("import", path)
    assert done.exit_code == 1
    assert "no judgements in" in done.output
    assert "2 lines without a grade" in done.output
