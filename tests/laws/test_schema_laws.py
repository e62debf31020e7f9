"""Feature schemas live side by side: what schema 1 left behind trains and serves under code that writes schema 2."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from msgspec import structs
from safetensors.numpy import load_file, save_file
from sqlalchemy import Engine

from abtest.experiment import Arm
from serving.ranking import scorer
from serving.settings import ServingSettings
from stream import db
from stream.errors import ArtifactError, ConfigError
from stream.replicas.catalogue import Catalogue
from stream.schemas import session
from stream.schemas.session import Session
from tests.serving.live import live, wait_until
from tests.serving.world import START_MS, World, body, items, request, scores_of, spooled
from tests.trainer.harness import LINEAGE, feed, make_loop, weights
from tests.trainer.session_log import make_items, make_log
from trainer.configs import LATER
from trainer.features import FEATURE_SCHEMA, SCHEMAS, ExampleBuilder, Examples, context_f16, item_f16, request_list
from trainer.lineage import Lineage
from trainer.versions import artifact, checkpoint
from trainer.versions.registry import Registry

import trainer.versions.tables  # isort: skip  # noqa: F401 - registers tables on the metadata

OLD_CONFIG = replace(LINEAGE.config, feature_schema=1, touch_columns=False)
OLD = replace(LINEAGE, name="old", config=OLD_CONFIG)
NEW_FIELDS = {"query_token", "query_path", "query_vec", "query_vec_mask", "position", "latency_ms"}


def engine_in(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


def versions(engine: Engine, lineage: Lineage) -> list[str]:
    return [version.artifact for version in Registry(engine).versions(lineage.name)]


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest of a folder, and give the folder the name that its new manifest asks for."""
    document = msgspec.json.decode((folder / "manifest.json").read_bytes())
    change(document)
    raw = msgspec.json.encode(document)
    (folder / "manifest.json").write_bytes(raw)
    return folder.rename(folder.with_name(folder.name[:-64] + hashlib.sha256(raw).hexdigest()))


def without_newer_fields(folder: Path) -> Path:
    """Give a golden set the form that it had before the newer fields, with an honest manifest."""
    path = folder / "golden.safetensors"
    save_file({name: column for name, column in load_file(path).items() if name not in NEW_FIELDS}, path)

    def change(document: dict[str, Any]) -> None:
        entry = document["files"]["golden"]
        entry["sha256"], entry["size"] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        entry["tensors"] = {name: kept for name, kept in entry["tensors"].items() if name not in NEW_FIELDS}

    return rewritten(folder, change)


def as_schema_1_wrote_it(folder: Path) -> Path:
    """Give a version the form that it had before the schema was a setting."""
    found = without_newer_fields(folder)
    return rewritten(found, lambda document: [document["config"].pop(name, None) for name in LATER])


def example(number: int) -> Examples:
    """A request as a shop of today sends it: with words, a vector and item types."""
    shop = Catalogue(make_items())
    ids = [f"i{number + row}" for row in range(8)]
    request = request_list(
        query_id=f"q{number}",
        item_ids=ids,
        items=item_f16([shop[item_id] for item_id in ids]),
        context=context_f16(event_ts=number, tokens=[number + 1, 9], query_vector=[0.5] * 16),
        history=None,
        category="root > c1",
        item_types=["video", *["product"] * 7],
    )
    return ExampleBuilder(shop).from_request(request)


def test_a_log_of_schema_1_trains_a_version_of_schema_2(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    log = make_log(90, schema=1) + [replace(one, offset=one.offset + 10_000) for one in make_log(30, seed=2)]
    loop = make_loop(tmp_path, engine)
    feed(loop, log)
    assert loop.learner.counters["trained"] > 100
    assert loop.learner.counters["rejected_features"] == 0
    (*_, newest) = versions(engine, LINEAGE)
    loaded = artifact.load(tmp_path / "artifacts", newest)
    assert loaded.manifest.feature_schema == FEATURE_SCHEMA == SCHEMAS[2].sha256
    assert np.isfinite(scorer.Loader(tmp_path / "artifacts").load(newest).score(example(1))).all()


def test_logs_of_either_schema_give_a_model_of_schema_1_the_same_weights(tmp_path: Path) -> None:
    """A model of schema 1 sees nothing of what schema 2 added."""
    found = []
    for schema in (1, 2):
        folder = tmp_path / str(schema)
        folder.mkdir()
        loop = make_loop(folder, engine_in(folder), lineage=OLD)
        feed(loop, [replace(one, value=with_same_numbers(one.value, schema)) for one in make_log(90, schema=1)])
        found.append(weights(loop))
    assert found[0] == found[1]


def with_same_numbers(raw: bytes, schema: int) -> bytes:
    """The record with the numbers of its session logged under another schema."""
    record = session.decode(raw)
    if schema == 1 or not isinstance(record, Session):
        return raw
    num_new = len(SCHEMAS[2].context) - len(SCHEMAS[1].context)
    more = np.concatenate([np.arange(num_new), np.full(16, 0.5)]).astype("<f2").tobytes()
    changed = structs.replace(
        record,
        feature_schema=bytes.fromhex(SCHEMAS[2].sha256),
        context_f16=record.context_f16 + more,
        item_type=["card"] * record.n,
    )
    return session.encode(changed)


def test_versions_of_both_schemas_score_beside_each_other(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    feed(make_loop(tmp_path, engine, lineage=OLD), make_log(90, schema=1))
    feed(make_loop(tmp_path / "new", engine), make_log(90))
    before = artifact.load(tmp_path / "artifacts", versions(engine, OLD)[-1])
    expected = scorer.VersionScorer(before).score(example(2))
    old = scorer.Loader(tmp_path / "artifacts").load(as_schema_1_wrote_it(tmp_path / "artifacts" / before.sha256).name)
    new = scorer.Loader(tmp_path / "new" / "artifacts").load(versions(engine, LINEAGE)[-1])
    assert old.score(example(2)) == expected
    assert old.score(replace(example(2), token=np.zeros((1, 8), np.int64), path=[()])) == expected
    assert new.score(replace(example(2), token=np.zeros((1, 8), np.int64))) != new.score(example(2))


def test_a_lineage_of_schema_1_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    log, engine = make_log(120, schema=1), engine_in(tmp_path)
    feed(make_loop(tmp_path, engine, lineage=OLD), log[:100])
    newest = sorted(each for each in (tmp_path / "checkpoints").iterdir())[-1]

    def before_the_settings(document: dict[str, Any]) -> None:
        for name in LATER:
            document["state"]["settings"].pop(f"model.{name}", None)

    newest = rewritten(without_newer_fields(newest), before_the_settings)
    assert "model.feature_schema" not in checkpoint.load(newest).state.settings
    another = replace(OLD, config=LINEAGE.config)
    elsewhere = db.create("sqlite://")
    db.metadata.create_all(elsewhere)
    with pytest.raises(ConfigError, match=r"model\.feature_schema was 1 and is 2.*; another model needs a lineage"):
        make_loop(tmp_path, elsewhere, lineage=another).start()
    resumed = make_loop(tmp_path, engine, lineage=OLD)
    feed(resumed, log)
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = make_loop(whole, engine_in(whole), lineage=OLD)
    feed(undisturbed, log)
    assert weights(resumed) == weights(undisturbed)


def test_an_unknown_schema_is_refused_by_name(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    feed(make_loop(tmp_path, engine), make_log(90))
    folder = tmp_path / "artifacts" / versions(engine, LINEAGE)[-1]
    found = rewritten(folder, lambda document: document.update(feature_schema="beef"))
    with pytest.raises(ArtifactError, match=rf"{found.name}: .*feature schema beef is unknown; known: 1 .d6895f4c"):
        scorer.Loader(found.parent).load(found.name)
    newest = sorted(each for each in (tmp_path / "checkpoints").iterdir())[-1]
    rewritten(newest, lambda document: document["state"].update(feature_schema="beef"))
    with pytest.raises(ArtifactError, match=r"checkpoint of lineage test: .*feature schema beef is unknown"):
        make_loop(tmp_path, engine).start()


def put_live(world: World, lineage: Lineage, folder: Path) -> str:
    """Make the version in `folder` the live one of its lineage, and return its number."""
    term = world.registry.leases.acquire(lineage.name, "holder", START_MS, 1_000_000)
    number = world.registry.versions(lineage.name)[-1].version + 1
    world.registry.publish(
        lineage.name, number, folder.name, parent=None, term=term, metrics={}, offsets={}, published_ts=START_MS
    )
    for status in ("verified", "live"):
        world.registry.advance(lineage.name, number, term, to_status=status, why="test", now_ms=START_MS)
    return str(number)


def numbered(folder: Path, world: World) -> Path:
    """Give a version the number that follows the newest one of its lineage."""
    number = world.registry.versions(OLD.name)[-1].version + 1
    return rewritten(folder, lambda document: document.update(version=number))


def ask(client: httpx.Client, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request as a shop of today sends it, and the answer over HTTP."""
    asked = body(
        f"c-{number}",
        event_ts=START_MS,
        query={"text": f"red shoes {number}", "category": "root > c1"},
        candidates=[{"item_id": f"i{(number + row) % 40}"} for row in range(12)],
    )
    return asked, client.post("/v1/rank", json=asked).raise_for_status().json()


def test_versions_of_both_schemas_answer_beside_each_other_over_http(tmp_path: Path) -> None:
    world = World(tmp_path)
    feed(make_loop(tmp_path, world.engine, lineage=OLD), make_log(90, schema=1))
    (tmp_path / "checkpoints").rename(tmp_path / "checkpoints of old")
    feed(make_loop(tmp_path, world.engine), make_log(90))
    newest = {lineage.name: world.artifacts / versions(world.engine, lineage)[-1] for lineage in (OLD, LINEAGE)}
    newest[OLD.name] = numbered(as_schema_1_wrote_it(newest[OLD.name]), world)
    numbers = {
        OLD.name: put_live(world, OLD, newest[OLD.name]),
        LINEAGE.name: str(world.registry.versions(LINEAGE.name)[-1].version),
    }
    world.experiment(arms=[Arm(name="a", lineage=OLD.name, is_control=True), Arm(name="b", lineage=LINEAGE.name)])
    service = world.service(ServingSettings(deadline_ms=60_000.0, poll_s=0.05, trust_event_ts=True))
    # The items of the log have vectors of another space than the world's own.
    for item in [*(structs.replace(own, image_vec=None, text_vec=None) for own in items()), *make_items()]:
        service.catalogue.put(item)
    with live(service) as address, httpx.Client(base_url=address) as client:
        wait_until(lambda: service.versions.numbers() == numbers)
        answered = [ask(client, number) for number in range(8)]
        another = shutil.copytree(newest[OLD.name], world.artifacts / ("0" * 64))
        unknown = rewritten(another, lambda document: document.update(feature_schema="beef"))
        put_live(world, OLD, numbered(unknown, world))
        refused = {"lineage": OLD.name, "reason": "artifact"}
        name = "shelfwise_serving_refused_versions_total"
        wait_until(lambda: service.metrics.registry.get_sample_value(name, refused) == 1)
        answered += [ask(client, number) for number in range(8)]
        assert client.get("/readyz").json()["versions"] == numbers
    assert {answer["lineage"] for _, answer in answered[:8]} == {OLD.name, LINEAGE.name}
    for asked, answer in answered:
        lineage = answer["lineage"]
        assert (answer["version"], answer["fallback"]) == (numbers[lineage], None)
        expected = scores_of(world, newest[lineage].name, request(**asked), service.catalogue)
        assert [item["item_id"] for item in answer["items"]] == sorted(expected, key=lambda one: -expected[one])
        assert [item["score"] for item in answer["items"]] == pytest.approx(sorted(expected.values())[::-1], abs=1e-5)
    logged = spooled(world)
    assert [one.query_id for one in logged] == [answer["query_id"] for _, answer in answered]
    assert {one.features.schema for one in logged if one.features is not None} == {FEATURE_SCHEMA}
    assert all(one.features is not None and one.fallback is None for one in logged)
