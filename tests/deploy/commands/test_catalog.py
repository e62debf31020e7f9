"""`shelfwise catalog embed`, from a file of items to a step of ARMMT."""

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from deploy.cli import app
from stream.broker.admin import create_topics
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.replicas.catalogue import Catalogue, publish
from tests.harness.kafka import PARTITIONS
from tests.trainer.session_log import START_TS, make_items, make_session
from tests.trainer.vectors.drawn import draw
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning.learner import Learner

HASHED = ("--text-encoder", "hashed", "--width", "16")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))


def catalogue(path: Path, *, pictures: int = 0) -> Path:
    """Write 40 items, the first ones with pictures beside the file."""
    items = [
        {
            "item_id": f"i{n}",
            "title": f"{('red', 'blue', 'green')[n % 3]} {('shoe', 'hat', 'lamp', 'pot')[n % 4]} {n}",
            "image": draw(path.parent / f"{n}.png", n).name if n < pictures else None,
        }
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def run(*argv: str) -> str:
    done = CliRunner().invoke(app, ["catalog", "embed", *argv])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def learned(shop: Catalogue) -> dict[str, bytes]:
    """The weights of ARMMT after a step on sessions of this catalogue."""
    rng = np.random.default_rng(6)
    learner = Learner("armmt", MODEL_PROFILES["armmt"]["tiny"], LearningSettings(batch=8), device=torch.device("cpu"))
    sessions = [make_session(number, rng, watermark_ts=START_TS + number, orders=[0]) for number in range(8)]
    placed = [OrderedSession(Key(one.watermark_ts, 0, offset), one) for offset, one in enumerate(sessions)]
    assert learner.learn(SessionBatch(tuple(placed), (False,) * 8), shop).moved
    return {name: weight.detach().numpy().tobytes() for name, weight in learner.params.items()}


def test_vectors_of_titles_and_pictures_reach_armmt(tmp_path: Path) -> None:
    file, out = catalogue(tmp_path / "items.jsonl", pictures=18), tmp_path / "vectors.parquet"
    document = msgspec.json.decode(run(str(file), "--out", str(out), *HASHED, "--json"))
    counted = {name: (each["items"], each["encoded"]) for name, each in document["vectors"].items()}
    assert counted == {"text": (40, 40), "image": (18, 18)}
    rows = pl.read_parquet(out).to_dicts()
    assert [row["item_id"] for row in rows] == [f"i{n}" for n in range(40)]
    assert {row["text_model"] for row in rows} == {document["vectors"]["text"]["space"]}
    bare = [msgspec.structs.replace(item, image_vec=None, text_vec=None) for item in make_items()]
    texts, both = (
        Catalogue(
            msgspec.structs.replace(item, **{name: row[name] for name in names})
            for item, row in zip(bare, rows, strict=True)
        )
        for names in (("text_vec", "text_model"), ("text_vec", "text_model", "image_vec", "image_model"))
    )
    assert all(both.text(row["item_id"]) is not None for row in rows)
    assert [both.image(row["item_id"]) is not None for row in rows] == [n < 18 for n in range(40)]
    weights = [learned(shop) for shop in (Catalogue(bare), texts, both)]
    assert weights[0] != weights[1] != weights[2]
    manifest = json.loads((tmp_path / "vectors.space" / "manifest.json").read_text())
    assert manifest["input"]["items"] == 40
    assert {name: each["encoder"] for name, each in manifest["vectors"].items()} == {
        "text": "hashed",
        "image": "efficientnet-lite0",
    }


def test_a_second_run_takes_the_same_space_and_prints_a_table(tmp_path: Path) -> None:
    argv = (str(catalogue(tmp_path / "items.jsonl")), "--out", str(tmp_path / "v.parquet"), *HASHED)
    first = pl.read_parquet(tmp_path / "v.parquet") if run(*argv) else None
    text = run(*argv)
    assert first is not None
    assert pl.read_parquet(tmp_path / "v.parquet").equals(first)
    assert "40 items" in text
    assert "hashed:" in text


def test_vectors_reach_the_topic_once_and_not_over_another_space(
    tmp_path: Path, memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.kafka.choice.configured", lambda _context: memory_broker)
    create_topics(memory_broker, PARTITIONS)
    bare = [msgspec.structs.replace(item, image_vec=None, text_vec=None) for item in make_items(39)]
    with Producer(memory_broker) as producer:
        publish(producer, bare)
    argv = (str(catalogue(tmp_path / "items.jsonl")), "--out", "items", *HASHED)
    published = [msgspec.json.decode(run(*argv, "--json"))["published"] for _ in range(2)]
    assert published == [
        {"num_published": 39, "num_unchanged": 0, "unknown": ["i39"]},
        {"num_published": 0, "num_unchanged": 39, "unknown": ["i39"]},
    ]
    shop = Catalogue.load(memory_broker)
    assert all(shop.text(item.item_id) is not None for item in bare)
    assert shop["i3"].price_minor == bare[3].price_minor
    assert shop["i3"].updated_ts > bare[3].updated_ts
    assert (tmp_path / "home" / "vectors" / "text.safetensors").is_file()
    other = ("--space", str(tmp_path / "other"), "--width", "12")
    with pytest.raises(
        ConfigError, match=rf"text vectors of the space {shop.text_space} \(39 items\), and these are of"
    ):
        run(*argv, *other)
    assert "39 published" in run(*argv, *other, "--replace-space")
    assert Catalogue.load(memory_broker).text_space != shop.text_space


def test_refusals(tmp_path: Path) -> None:
    file = str(catalogue(tmp_path / "items.jsonl"))
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        run(file, "--out", str(tmp_path / "v.csv"), *HASHED)
    with pytest.raises(ConfigError, match="--width 64: 65 items that differ are needed"):
        run(file, "--out", str(tmp_path / "v.parquet"), "--text-encoder", "hashed")
    with pytest.raises(ConfigError, match="nothing to encode"):
        run(file, "--out", str(tmp_path / "v.parquet"), "--text-encoder", "none")
    drawn = str(catalogue(tmp_path / "drawn.jsonl", pictures=1))
    with pytest.raises(ConfigError, match=r"none\.onnx: no graph of ONNX"):
        run(drawn, "--out", str(tmp_path / "v.parquet"), *HASHED, "--detector", str(tmp_path / "none.onnx"))


def test_vectors_are_not_written_over_the_items_or_a_folder(tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    pl.read_ndjson(
        catalogue(tmp_path / "items.jsonl"), schema={"item_id": pl.String, "title": pl.String}
    ).write_parquet(items)
    before = items.read_bytes()
    (tmp_path / "link.parquet").symlink_to(items)
    for name in ("items.parquet", "link.parquet"):
        with pytest.raises(ConfigError, match=rf"--out .*{name}: the items are in this file"):
            run(str(items), "--out", str(tmp_path / name), *HASHED)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*folder\.parquet: expected a file, got a folder"):
        run(str(items), "--out", str(tmp_path / "folder.parquet"), *HASHED)
    assert items.read_bytes() == before
