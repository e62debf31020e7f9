"""`shelfwise stream ingest` on files of other conventions and a real Kafka."""

import gzip
import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.operations.event_files import EventFileError
from stream.schemas import decode, topics

GOLDEN = Path(__file__).parents[2] / "stream" / "adapters" / "golden"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setenv("SHELFWISE_PRIVACY__QUERY_HASH_KEY", "golden")
    return tmp_path


def lines_of(name: str) -> tuple[bytes, Counter[str], int]:
    """Return a file of a format, the records by topic and the number of lines that become a dead letter."""
    cases = json.loads((GOLDEN / f"{name}.json").read_text())
    raw = [case["source"] if isinstance(case["source"], str) else json.dumps(case["source"]) for case in cases]
    records = Counter(one["topic"] for case in cases for one in case["expected"] if "topic" in one)
    return "\n".join(raw).encode() + b"\n\n", records, sum(map(is_dead, cases))


def is_dead(case: dict[str, list[dict[str, str]]]) -> bool:
    return any(one.get("reason", "unmapped") != "unmapped" for one in case["expected"])


def ingest(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["stream", "ingest", *arguments], input=stdin)


@pytest.mark.parametrize("name", ["ubi", "ga4", "segment", "snowplow", "metarank"])
def test_a_dry_run_counts_and_sends_nothing(name: str, home: Path) -> None:
    content, records, num_dead_letters = lines_of(name)
    (home / "events").write_bytes(content)
    done = msgspec.json.decode(ingest("--format", name, "--dry-run", "--json", str(home / "events")).stdout)
    assert (done["records"], done["dead_letters"], done["dry_run"]) == (records, num_dead_letters, True)
    payloads = [line for line in content.split(b"\n") if line and not line.startswith(b'{"index"')]
    assert done["payloads"] == len(payloads)
    assert not (home / "serving").exists()


@pytest.mark.parametrize("currency", ["eur", "EURO", "XXX", "€"])
def test_a_currency_that_is_none_is_refused(currency: str, home: Path) -> None:
    (home / "events").write_bytes(lines_of("segment")[0])
    done = ingest("--format", "segment", "--dry-run", "--currency", currency, str(home / "events"))
    assert done.exit_code == 2
    assert f"'{currency}': expected three capital letters" in " ".join(done.output.replace("│", " ").split())


def test_a_currency_of_the_shop_takes_orders_that_name_none(home: Path) -> None:
    content, records, num_dead_letters = lines_of("segment")
    (home / "events").write_bytes(content)
    arguments = ("--format", "segment", "--dry-run", "--json", "--currency", "EUR", str(home / "events"))
    done = msgspec.json.decode(ingest(*arguments).stdout)
    assert (done["records"]["conversions"], done["dead_letters"]) == (records["conversions"] + 1, num_dead_letters - 1)


@pytest.mark.kafka
def test_records_and_rejects_arrive_once_however_often_a_file_is_sent(
    fresh_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    content, records, num_dead_letters = lines_of("ga4")
    shown = ingest("--format", "ga4", "-", stdin=content)
    assert shown.exit_code == 0, shown.output
    assert "expected microseconds since 1970" in shown.stderr
    again = ingest("--format", "ga4", "-", stdin=b"\n\n" + content)
    assert again.exit_code == 0, again.output
    expected = [
        one["record"]["event_id"]
        for case in json.loads((GOLDEN / "ga4.json").read_text())
        for one in case["expected"]
        if one.get("topic") == topics.CLICKS
    ]
    found = list(read_to_end(fresh_kafka, topics.CLICKS))
    assert Counter(decode.click(one.value).event_id for one in found) == Counter(expected * 2)
    assert {one.key for one in found} == {b"531.77"}
    assert sum(1 for _ in read_to_end(fresh_kafka, topics.CONVERSIONS)) == 2 * records[topics.CONVERSIONS]
    letters = [dict(one.headers) for one in read_to_end(fresh_kafka, topics.DEAD_LETTERS)]
    assert len(letters) == 2 * num_dead_letters
    assert len({(one["topic"], one["partition"], one["offset"]) for one in letters}) == num_dead_letters
    assert {one["topic"] for one in letters} == {b"ingest:ga4"}
    assert all(one["reason"] and one["detail"] and one["line"] for one in letters)


def test_a_file_that_is_not_there(home: Path) -> None:
    missing = ingest("--format", "ubi", "--dry-run", str(home / "nothing"))
    assert isinstance(missing.exception, EventFileError)
    assert ingest("--format", "csv", "--dry-run", "-").exit_code == 2


def test_several_files_of_any_compression_are_counted_together(home: Path) -> None:
    content, records, _ = lines_of("ga4")
    (home / "a.jsonl").write_bytes(content)
    (home / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (home / "bulk").write_bytes(b'{"index":{}}\n' + content)
    done = ingest("--format", "ga4", "--dry-run", "--json", str(home / "*.jsonl*"), str(home / "bulk"))
    counted = msgspec.json.decode(done.stdout)
    assert counted["files"] == [str(home / name) for name in ("a.jsonl", "b.jsonl.gz", "bulk")]
    assert counted["records"] == {topic: 3 * number for topic, number in records.items()}
    assert counted["skipped_lines"] == 1
    assert {reject["file"] for reject in counted["first_rejects"]} <= set(counted["files"])


@pytest.mark.parametrize("content", [b"{}\n[1, 2]\n", b'{"event":"item"}\n'])
def test_a_run_in_which_nothing_could_be_used_fails(content: bytes, home: Path) -> None:
    (home / "events").write_bytes(content)
    done = ingest("--format", "metarank", "--dry-run", str(home / "events"))
    assert done.exit_code == 1
    assert f"payloads of {home / 'events'} could be used as metarank" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b'{"index":{}}\n', gzip.compress(b"")])
def test_files_without_events_fail(content: bytes, home: Path) -> None:
    (home / "events").write_bytes(content)
    done = ingest("--format", "metarank", "--dry-run", str(home / "events"))
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, f"error: no events in {home / 'events'}")


@pytest.mark.kafka
def test_old_events_are_named_before_they_are_sent_and_recent_ones_are_not(
    fresh_kafka: Broker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    old = ingest("--format", "ga4", "-", stdin=lines_of("ga4")[0])
    first = old.stderr.splitlines()[0]
    assert "older than the windows of the join (960 s)" in first
    assert "`shelfwise stream replay --format ga4 FILE...`" in first
    monkeypatch.setenv("SHELFWISE_JOIN__CLICK_WINDOW_S", str(50 * 365 * 86_400))
    monkeypatch.setenv("SHELFWISE_JOIN__ATTRIBUTION_S", str(60 * 365 * 86_400))
    assert "older" not in ingest("--format", "ga4", "-", stdin=lines_of("ga4")[0]).stderr
    (home / "damaged.gz").write_bytes(gzip.compress(lines_of("ga4")[0] * 2)[:-9])
    damaged = ingest("--format", "ga4", str(home / "damaged.gz"))
    assert isinstance(damaged.exception, EventFileError)
    assert "damaged.gz: Compressed file ended before" in str(damaged.exception)
    assert "records before it were sent" in str(damaged.exception)
