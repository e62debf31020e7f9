"""`shelfwise trainer evaluate` on small generated files of each form."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream.broker.admin import create_topics
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.operations.export import session_row
from stream.schemas import session, topics
from stream.schemas.events import encode
from tests.deploy.simulation.replay import trivago_log
from tests.harness.kafka import PARTITIONS
from tests.trainer.evaluation import logs
from tests.trainer.evaluation.test_jdsearch import write as write_jdsearch
from tests.trainer.evaluation.test_libsvm import write as write_libsvm

QUICK = ["--seeds", "2", "--epochs", "1", "--resamples", "100"]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATA", raising=False)


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(session_row(each)) + b"\n" for each in logs.sessions(60)))
    return path


def run(*argv: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["trainer", "evaluate", *argv])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_own_sessions_give_a_table_a_document_and_a_page(sessions: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    text = run("--data", str(sessions), "--models", "mlp,lightgbm", *QUICK, "--out", str(out))
    for word in ("displayed order", "last touched", "mlp", "lightgbm", "36 train, 12 validation, 12 test lists"):
        assert word in text
    document = msgspec.json.decode((out / "evaluation.json").read_bytes())
    assert document["reference"] == "lightgbm"
    assert [row["name"] for row in document["rows"]][-2:] == ["mlp", "lightgbm"]
    assert "<svg" in (out / "evaluation.html").read_text()


def test_settings_of_models_are_taken_by_those_that_have_them(sessions: Path) -> None:
    argv = ["--data", str(sessions), "--models", "mlp,prm", "--seeds", "1", *QUICK[2:], "--json"]
    plain = msgspec.json.decode(run(*argv))
    changed = msgspec.json.decode(run(*argv, "--model-set", "layers=2", "--model-set", "prm.d=16"))
    weights = [[row["num_weights"] for row in found["rows"][-2:]] for found in (plain, changed)]
    assert weights[0][0] == weights[1][0]
    assert weights[0][1] < weights[1][1]
    assert changed["note"] == plain["note"] + "; layers=2, prm.d=16"
    for wrong in ("colour=2", "mlp.layers=2", "din.layers=2"):
        with pytest.raises(ConfigError, match=f"--model-set {wrong}"):
            run(*argv, "--model-set", wrong)


def test_variants_are_rows_of_their_own(sessions: Path) -> None:
    models = "prm,pier,armmt,armmt:no-image,armmt:no-cafu,armmt:no-aux"
    argv = ["--data", str(sessions), "--models", models, "--seeds", "1", *QUICK[2:], "--json", "--reference", "armmt"]
    document = msgspec.json.decode(run(*argv))
    rows = document["rows"][-6:]
    assert [row["name"] for row in rows] == models.split(",")
    weights = {row["name"]: row["num_weights"] for row in rows}
    assert len(set(weights.values())) == 6
    assert weights["armmt"] > weights["armmt:no-aux"] > weights["armmt:no-cafu"] > weights["armmt:no-image"]
    assert all(("mrr" in row["differences"]) == (row["name"] != "armmt") for row in rows)


def test_settings_of_a_model_reach_its_variants_and_a_variant_counts_more(sessions: Path) -> None:
    argv = ["--data", str(sessions), "--models", "armmt,armmt:width=16", "--seeds", "1", *QUICK[2:], "--json"]
    document = msgspec.json.decode(run(*argv, "--model-set", "armmt.width=24", "--model-set", "armmt.mm_layers=2"))
    plain = msgspec.json.decode(run(*argv))
    (wide, narrow), (before, narrow_before) = (
        [row["num_weights"] for row in each["rows"][-2:]] for each in (document, plain)
    )
    assert wide < before
    assert narrow > narrow_before
    assert narrow < wide


def test_json_is_the_same_document_and_equal_on_a_second_run(sessions: Path, tmp_path: Path) -> None:
    argv = ["--data", str(sessions), "--models", "prm", *QUICK, "--json", "--out", str(tmp_path)]
    printed = run(*argv)
    assert msgspec.json.decode(printed) == msgspec.json.decode((tmp_path / "evaluation.json").read_bytes())
    assert run(*argv) == printed


def test_items_give_the_vectors_of_a_file_of_sessions(sessions: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_bytes(b"".join(encode(item) + b"\n" for item in logs.KNOWN.items.values()))
    argv = ["--data", str(sessions), "--models", "armmt", *QUICK, "--json"]
    bare = msgspec.json.decode(run(*argv))["rows"][-1]["modalities"]
    known = msgspec.json.decode(run(*argv, "--items", str(items)))["rows"][-1]["modalities"]
    assert bare == []
    assert {each["modality"] for each in known} == {"image", "text"}
    items.write_text("{}\n")
    with pytest.raises(ConfigError, match=r"items\.jsonl, line 1"):
        run(*argv, "--items", str(items))


def test_the_topic_gives_the_newest_revisions_with_the_catalogue(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address alone does not tell that the broker keeps its topics in memory.
    monkeypatch.setattr("deploy.kafka.choice.configured", lambda _context: memory_broker)
    create_topics(memory_broker, PARTITIONS)
    with Producer(memory_broker) as producer:
        for item in logs.KNOWN.items.values():
            producer.send(topics.ITEMS, key=item.item_id.encode(), value=encode(item))
        for each in [*logs.sessions(60, share_bought=0.0), *logs.sessions(60)]:
            # The first copy is an older revision without its order.
            each.revision = int(each.column("orders").sum())
            producer.send(topics.SESSIONS, key=each.client_id.encode(), value=session.encode(each))
    document = msgspec.json.decode(run("--data", "sessions", "--models", "armmt", *QUICK, "--json"))
    assert document["num_lists"] == {"train": 36, "validation": 12, "test": 12}
    assert document["excluded"]["no positive item"] == 0
    assert {each["modality"] for each in document["rows"][-1]["modalities"]} == {"image", "text"}


def test_libsvm_files_are_read_by_models_and_by_the_peer(tmp_path: Path) -> None:
    path = tmp_path / "mslr.txt"
    write_libsvm(path, 60)
    argv = ["--models", "mlp,prm,armmt,lightgbm", "--seeds", "1", "--epochs", "2", "--resamples", "100", "--json"]
    document = msgspec.json.decode(run("--data", "libsvm", "--path", str(path), *argv))
    assert [row["name"] for row in document["rows"]] == ["random", "mlp", "prm", "armmt", "lightgbm"]
    assert document["rows"][-1]["figures"]["ndcg@10"]["mean"] > document["rows"][0]["figures"]["ndcg@10"]["mean"]
    assert run("--data", str(path), *argv) == run("--data", "libsvm", "--path", str(path), *argv)


@pytest.mark.no_cover
def test_a_trivago_log_is_known_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    trivago_log.write(path, visits=60, seed=5)
    bounds = ["--validation-from", "2018-11-07T02:00Z", "--test-from", "2018-11-07T04:00Z"]
    argv = ["--models", "mlp", *QUICK, "--json", *bounds]
    document = msgspec.json.decode(run("--data", str(path), *argv))
    assert document["data"] == "trivago log.parquet"
    assert document == msgspec.json.decode(run("--data", "trivago", "--path", str(path), *argv))


def test_jdsearch_files_are_read_by_models_and_by_the_peer(tmp_path: Path) -> None:
    write_jdsearch(tmp_path, 60)
    argv = ["--models", "prm,lightgbm", "--label", "click", *QUICK, "--json"]
    document = msgspec.json.decode(run("--data", "jdsearch", "--path", str(tmp_path), *argv))
    assert [row["name"] for row in document["rows"]][:2] == ["displayed order", "random"]
    assert document["num_lists"] == {"train": 36, "validation": 12, "test": 12}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data", "nothing"], "--data nothing: expected a file, `sessions`, trivago, libsvm or jdsearch"),
        (["--data", "trivago"], "SHELFWISE_DATA"),
        (["--data", "libsvm"], "--path is missing: expected a file, or a folder"),
        (["--data", "jdsearch"], "--path is missing: expected a folder with release_data.txt"),
        (["--data", "sessions", "--path", "x"], "--path x: only for"),
        (["--data", "FILE", "--models", "bert"], "--models bert: 'bert': expected armmt"),
        (["--data", "FILE", "--models", "armmt:no-sound"], "--models armmt:no-sound: 'no-sound': expected no-image"),
        (["--data", "FILE", "--label", "view"], "--label view"),
        (["--data", "FILE", "--policy", "best"], "--policy best: expected shuffle"),
        (["--data", "FILE", "--policy", "shuffle"], "none of 12 test lists was shuffled"),
        (["--data", "FILE", "--models", ""], "--models names no model"),
        (["--data", "nothing", "--device", "tpu"], "--device tpu: expected"),
        (["--data", "FILE", "--models", "bert"], "smar, lightgbm"),
        (["--data", "FILE", "--models", "mlp,mlp"], "--models names mlp twice"),
        (["--data", "FILE", "--test-from", "2026-01-01T00:00Z"], "go together"),
        (["--data", "FILE", "--models", "mlp", "--reference", "prm"], "reference 'prm'"),
    ],
)
def test_wrong_options_are_refused_by_name(argv: list[str], words: str, sessions: Path) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        run(*[str(sessions) if each == "FILE" else each for each in argv])
