import logging
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.ranking import scorer, torch_runtime
from serving.settings import ServingSettings
from stream.errors import ArtifactError
from stream.replicas.catalogue import Catalogue
from tests.serving.world import World, example_of, items, publish, publish_delta, request, scores_of
from trainer.features import Batch
from trainer.features.hash_index import hash_pairs
from trainer.models import MODELS
from trainer.versions import artifact, int8
from trainer.versions.artifact import LoadedVersion
from trainer.versions.int8 import Limits
from trainer.versions.signature import VersionKeys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_a_loaded_version_gives_its_golden_scores(world: World, model: str) -> None:
    loaded = scorer.Loader(world.artifacts).load(publish(world.artifacts, "base", 1, model=model))
    assert loaded.verify() <= artifact.GOLDEN_TOLERANCE


def test_a_version_of_another_vector_space_is_refused_by_name(world: World) -> None:
    loaded = scorer.Loader(world.artifacts).load(publish(world.artifacts, "base", 1))
    shop = Catalogue(items())
    loaded.keep_spaces(shop)
    changed = Catalogue(msgspec.structs.replace(each, text_model="text-2") for each in items())
    with pytest.raises(ArtifactError, match="60 items have vectors of the space text-2, and 0 of text-1"):
        loaded.keep_spaces(changed)


def test_a_list_has_one_score_per_candidate(world: World) -> None:
    address = publish(world.artifacts, "base", 1)
    found = scores_of(world, address, request(num_candidates=7), Catalogue(items()))
    assert list(found) == [f"i-{k}" for k in range(7)]


def test_candidates_are_counted_by_table_and_row(world: World) -> None:
    counted: Counter[tuple[str, str]] = Counter()
    loaded = scorer.Loader(world.artifacts, count=counted.update).load(publish(world.artifacts, "base", 1))
    assert not counted, "golden lists are no requests"
    example = example_of(request(num_candidates=7), Catalogue(items()))
    (example.entity[0, 0],) = hash_pairs(["never seen"])
    loaded.score(example)
    assert (counted["item", "own"], counted["item", "cold"]) == (6, 1)
    assert (counted["brand", "own"], counted["brand", "cold"]) == (0, int((example.entity[:, 2, 0] > 0).sum()))


def test_golden_scores_that_differ_are_refused(world: World) -> None:
    loaded = artifact.load(world.artifacts, publish(world.artifacts, "base", 1))
    assert scorer.VersionScorer(loaded).verify() <= 1e-6
    for name in [name for name in loaded.params if name.endswith("weight")]:
        loaded.params[name] = loaded.params[name] + 0.5
    with pytest.raises(ArtifactError, match="golden"):
        scorer.VersionScorer(loaded).verify()


def test_a_missing_weight_is_refused(world: World) -> None:
    loaded = artifact.load(world.artifacts, publish(world.artifacts, "base", 1))
    del loaded.params[next(name for name in loaded.params if name.endswith("weight"))]
    with pytest.raises(ArtifactError, match="the weights are not those of its model"):
        scorer.VersionScorer(loaded).verify()


def test_a_delta_is_put_into_a_version_in_use_and_else_into_its_base_on_disk(world: World) -> None:
    base = publish(world.artifacts, "base", 1, model="din")
    first, second = (publish_delta(world.artifacts, base, number, rows=[number, 7]) for number in (2, 3))
    example = example_of(request(), Catalogue(items()))
    expected = scorer.Loader(world.artifacts).load(second).score(example)
    loader = scorer.Loader(world.artifacts)
    used = loader.load(base)
    before = used.score(example)
    shutil.rmtree(world.artifacts / base)
    assert loader.load(second).score(example) == expected != before
    assert used.score(example) == before
    del used
    with pytest.raises(ArtifactError, match=f"{first}: its base is refused: {base}: expected a folder"):
        loader.load(first)


def test_a_graph_scores_as_torch_does(world: World) -> None:
    address = publish(world.artifacts, "base", 1, model="din", with_graph=True)
    found = scorer.Loader(world.artifacts, runtime="onnx").load(address)
    example = example_of(request(), Catalogue(items()))
    expected = scorer.Loader(world.artifacts).load(address).score(example)
    assert found.score(example) == pytest.approx(expected, abs=2e-5)
    second = publish_delta(world.artifacts, address, 2, rows=[3, 7])
    assert scorer.Loader(world.artifacts, runtime="onnx").load(second).score(example) != found.score(example)


def test_a_page_is_chosen_by_graphs_as_by_torch(world: World) -> None:
    address = publish(world.artifacts, "base", 1, model="pier", with_graph=True)
    found = scorer.Loader(world.artifacts, runtime="onnx").load(address)
    assert found.verify() < 1e-5
    example = example_of(request(), Catalogue(items()))
    scores = found.score(example)
    # Pages of almost equal value may change places, so the scores are compared as a set.
    expected = scorer.Loader(world.artifacts).load(address).score(example)
    assert sorted(scores) == pytest.approx(sorted(expected), abs=2e-5)


def test_a_model_of_pages_is_scored_in_full_precision(world: World, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    with caplog.at_level(logging.WARNING):
        address = publish(world.artifacts, "base", 1, model="pier", with_graph=True, int8=Limits(0.0, 1.0))
        found = int8_loader(world, told).load(address)
    assert (found.runtime, told) == ("onnx", ["base"])
    assert "written without an int8 graph: the model chooses pages" in caplog.text


def test_a_version_without_a_graph_is_refused_by_the_runtime_that_needs_one(world: World) -> None:
    address = publish(world.artifacts, "base", 1)
    with pytest.raises(ArtifactError, match=f"{address}: it has no graph"):
        scorer.Loader(world.artifacts, runtime="onnx").load(address)


@pytest.mark.parametrize("runtime", ["onnx", "onnx-int8", "torch-eager"])
def test_with_onnx_only_rows_of_tables_stay_and_a_delta_needs_no_more(
    world: World, runtime: scorer.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[LoadedVersion] = []
    load = artifact.load

    def noted(folder: Path, sha256: str, held: Iterable[LoadedVersion], keys: VersionKeys) -> LoadedVersion:
        loaded.append(load(folder, sha256, held, keys))
        return loaded[-1]

    base = publish(world.artifacts, "base", 1, model="din", with_graph=True, int8=Limits(0.0, 1.0))
    delta = publish_delta(world.artifacts, base, 2, rows=[3])
    monkeypatch.setattr(artifact, "load", noted)
    loader = scorer.Loader(world.artifacts, runtime=runtime)
    used = loader.load(base)
    before = used.score(example_of(request(), Catalogue(items())))
    tables = {"rows.brand", "rows.category", "rows.item", "rows.shop"}
    assert tables <= loaded[0].weights.keys()
    assert (loaded[0].weights.keys() == tables) == (runtime != "torch-eager")
    shutil.rmtree(world.artifacts / base)
    loader.load(delta)
    assert used.score(example_of(request(), Catalogue(items()))) == before


def int8_loader(world: World, told: list[str]) -> scorer.Loader:
    return scorer.Loader(world.artifacts, runtime="onnx-int8", full_precision=told.append)


def test_an_int8_graph_scores_within_its_limits(world: World) -> None:
    told: list[str] = []
    address = publish(world.artifacts, "base", 1, with_graph=True, int8=Limits(0.9, 1.0))
    found = int8_loader(world, told).load(address)
    example = example_of(request(), Catalogue(items()))
    expected = scorer.Loader(world.artifacts, runtime="onnx").load(address).score(example)
    assert (found.runtime, told) == ("onnx-int8", [])
    assert found.verify() > artifact.GOLDEN_TOLERANCE
    assert found.score(example) != expected
    assert found.score(example) == pytest.approx(expected, abs=0.2)


def test_a_version_without_an_int8_graph_is_scored_in_full_precision_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    address = publish(world.artifacts, "base", 1, with_graph=True)
    with caplog.at_level(logging.WARNING, logger=scorer.__name__):
        found = int8_loader(world, told).load(address)
    assert (found.runtime, told) == ("onnx", ["base"])
    assert f"lineage base: version 1 is scored in full precision: {address}: it has no int8 graph" in caplog.text
    assert found.verify() <= artifact.GOLDEN_TOLERANCE


def test_int8_scores_beyond_the_limits_of_the_manifest_are_not_used_here(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    address = publish(world.artifacts, "base", 1, with_graph=True, int8=Limits(0.9, 1.0))
    # As on a processor that rounds worse.
    monkeypatch.setattr(int8, "agreement", lambda *_: int8.Agreement(0.89, 0.0))
    assert int8_loader(world, told).load(address).runtime == "onnx"
    assert told == ["base"]


def test_a_version_without_any_graph_is_refused_with_int8_too(world: World) -> None:
    told: list[str] = []
    with pytest.raises(ArtifactError, match="it has no graph, which"):
        int8_loader(world, told).load(publish(world.artifacts, "base", 1))


def test_settings_choose_the_runtime() -> None:
    assert scorer.runtime_of(ServingSettings()) == "torch-eager"
    assert scorer.runtime_of(ServingSettings(compiled=True)) == "torch-compiled"
    assert scorer.runtime_of(ServingSettings(runtime="onnx")) == "onnx"
    assert scorer.runtime_of(ServingSettings(runtime="onnx", precision="int8")) == "onnx-int8"


def test_a_missing_version_is_refused(world: World) -> None:
    with pytest.raises(ArtifactError):
        scorer.Loader(world.artifacts).load("0" * 64)


def test_a_compiled_version_is_warm_for_the_shapes_of_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = []

    def compiled(version: LoadedVersion) -> scorer.Forward:
        forward = torch_runtime.eager(version)

        def recorded(batch: Batch) -> NDArray[np.float32]:
            scored.append({name: (c.shape, c.strides) for name, c in batch._asdict().items() if c.size})
            return forward(batch)

        return recorded

    monkeypatch.setattr(torch_runtime, "compiled", compiled)
    loaded = scorer.Loader(world.artifacts, runtime="torch-compiled").load(publish(world.artifacts, "base", 1))
    before = scored.copy()
    loaded.score(example_of(request(num_candidates=7), Catalogue(items())))
    # Each form is a compilation of a minute.
    assert len(before) > 1
    assert all(form == scored[-1] for form in before)
