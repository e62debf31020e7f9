"""The command line of the simulated shop, against a real broker."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.commands.output import Exit
from stream.broker.offsets import end_offsets
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.replicas.catalogue import Catalogue
from stream.schemas import topics
from stream.schemas.problems import Problem

SMALL = ("--set", "marketplace.drain_h=2", "--set", "marketplace.clients=500")


def call(broker: Broker, home: Path, *arguments: str) -> dict[str, object]:
    environment = {"SHELFWISE_BROKER": broker.bootstrap, "SHELFWISE_HOME": str(home)}
    result = CliRunner().invoke(app, [*SMALL, "marketplace", *arguments], env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_the_shop_runs_under_plain_client_ids_only(tmp_path: Path) -> None:
    environment = {"SHELFWISE_HOME": str(tmp_path), "SHELFWISE_PRIVACY__CLIENT_ID_KEY": "k" * 32}
    refused = CliRunner().invoke(app, ["marketplace", "run"], env=environment)
    assert isinstance(refused.exception, ConfigError)
    assert "ids that are not hashed" in str(refused.exception)


@pytest.mark.kafka
def test_items_then_shoppers_then_a_continued_run(fresh_kafka: Broker, tmp_path: Path) -> None:
    published = call(fresh_kafka, tmp_path, "publish-items", "--json")
    catalogue = Catalogue.load(fresh_kafka)
    assert published == {"items": len(catalogue)}
    assert all(item.updated_ts == 1_767_571_200_000 - 86_400_000 for item in catalogue.values())

    shopping = ("run", "--direct", "--hours", "0.05", "--rate", "1000", "--tick-s", "30", "--json")
    first = call(fresh_kafka, tmp_path, *shopping)
    ends = end_offsets(fresh_kafka, topics.EVENT_TOPICS)
    written = {name: sum(end for (topic, _), end in ends.items() if topic == name) for name in topics.EVENT_TOPICS}
    assert first["produced"] == written
    assert first["queries"] == first["impressions"] == written[topics.IMPRESSIONS] > 0

    second = call(fresh_kafka, tmp_path, *shopping, "--start", "continue")
    assert isinstance(first["end_ts"], int)
    assert isinstance(second["end_ts"], int)
    assert second["end_ts"] > first["end_ts"]
    assert second["queries"] == first["queries"]


class Refusing(BaseHTTPRequestHandler):
    """A ranking service that takes no request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = msgspec.json.encode(Problem(error="not today", field="query.hash", value="x"))
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


def test_a_run_without_any_list_fails(memory_broker: Broker, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    options = [*SMALL, "marketplace", "run", "--serving", address, "--hours", "0.01", "--rate", "1000"]
    environment = {"SHELFWISE_BROKER": f"memory@{memory_broker.bootstrap}", "SHELFWISE_HOME": str(tmp_path)}
    try:
        result = CliRunner().invoke(app, options, env=environment, catch_exceptions=False)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert result.exit_code == 1
    assert "searches got a list: ranking service: refused: query.hash = x: not today" in " ".join(result.output.split())


@pytest.mark.parametrize("start", ["yesterday", "2026-01-05T00:00"])
def test_a_start_that_cannot_be_meant_is_refused(start: str, tmp_path: Path) -> None:
    arguments = ["marketplace", "run", "--direct", "--start", start]
    shown = CliRunner().invoke(app, arguments, env={"SHELFWISE_HOME": str(tmp_path)})
    assert shown.exit_code == Exit.USAGE
    assert f"'{start}'" in shown.output


SHOP = ("--set", "marketplace.items=200", "--set", "marketplace.categories=2", "--set", "learning.batch=8")


def compare(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*SHOP, *SMALL, "marketplace", "compare", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_models_are_compared_without_a_broker() -> None:
    options = (
        "--models",
        "mlp",
        "--models",
        "mlp:uses_rank=false",
        "--lists",
        "20",
        "--seeds",
        "1",
        "--test-lists",
        "20",
    )
    document = json.loads(compare(*options, "--json"))
    assert [(one["name"], one["reference"]) for one in document["differences"]] == [
        ("mlp", "incoming order"),
        ("mlp:uses_rank=false", "incoming order"),
        ("mlp:uses_rank=false", "mlp"),
    ]
    assert document["bounds"]["random order"] < 0 < document["bounds"]["best possible"]


@pytest.mark.parametrize("lists", ["", "many", "20,10", "0"])
def test_numbers_of_lists_that_cannot_be_meant_are_refused(lists: str) -> None:
    with pytest.raises(ConfigError, match="expected ascending numbers"):
        compare("--lists", lists)
