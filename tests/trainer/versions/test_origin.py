"""The version that a new lineage starts from: found, compared with the model, or refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from stream import db
from stream.errors import ArtifactError, ConfigError
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.configs import MODEL_PROFILES, ModelConfig, Vocabulary
from trainer.versions.checkpoint import Origin
from trainer.versions.origin import find
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.wanted import Wanted


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Registry]:
    """The home of a lineage with one live version and one retired one, and its registry."""
    folder = tmp_path_factory.mktemp("base")
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    full_only = replace(SETTINGS, keep_checkpoints=2, keep_versions=2, version_delta_share=0)
    feed(make_loop(folder, engine, settings=full_only), make_log(130))
    return folder, Registry(engine)


def found(
    trained: tuple[Path, Registry],
    text: str,
    *,
    model: str = LINEAGE.model,
    config: ModelConfig = LINEAGE.config,
    checkpoints: str = "none",
    keys: VersionKeys = NO_KEYS,
) -> Origin | None:
    folder, registry = trained
    return find(
        Wanted.parse(text, "--warm-start"),
        model,
        config,
        registry=registry,
        versions=folder / "artifacts",
        checkpoints=folder / checkpoints,
        keys=keys,
    )


def test_a_version_that_is_not_signed_is_no_start_where_a_key_asks_for_signatures(
    trained: tuple[Path, Registry],
) -> None:
    with pytest.raises(ArtifactError, match="it is not signed"):
        found(trained, "test", keys=VersionKeys((bytes(32),)))


def test_a_lineage_alone_names_its_live_version(trained: tuple[Path, Registry]) -> None:
    folder, registry = trained
    live = registry.live("test")
    assert live is not None
    origin = found(trained, "test")
    assert origin is not None
    assert (origin.version, origin.artifact) == (live.version, live.artifact)
    assert origin == found(trained, f"test:{live.version}")
    assert str(origin) == f"test:{live.version}"
    assert (folder / "artifacts" / origin.artifact).is_dir()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other", "--warm-start other: lineage other has no live version"),
        ("other:1", "lineage other has no version 1; it has no versions"),
        ("test:99", "lineage test has no version 99; its versions are 1 to 3"),
        ("test:1", "--warm-start test:1: version 1 is retired"),
        ("test:0", "version '0': expected a number above 0"),
        ("test:", "version '': expected a number above 0"),
        ("test:²", "version '²': expected a number above 0"),
        ("no name:1", "--warm-start lineage = 'no name'"),
    ],
)
def test_a_version_that_is_not_there_is_refused_by_name(
    trained: tuple[Path, Registry], text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        found(trained, text)
    assert message in str(caught.value)


def test_another_model_schema_or_width_is_refused_with_both_values(trained: tuple[Path, Registry]) -> None:
    with pytest.raises(ConfigError, match=r"--warm-start test: trainer\.model is 'prm' there and 'mlp' here"):
        found(trained, "test", model="mlp", config=MODEL_PROFILES["mlp"]["tiny"])
    other = replace(LINEAGE.config, d=16, feature_schema=1)
    with pytest.raises(ConfigError, match=r"model\.d is 8 there and 16 here, model\.feature_schema is 2 there and 1"):
        found(trained, "test", config=other)


def test_sizes_of_tables_and_weights_of_losses_may_differ(trained: tuple[Path, Registry]) -> None:
    other = replace(LINEAGE.config, vocabulary=Vocabulary(item=20), clicked_weight=0.3, aux_weight=0.0)
    assert found(trained, "test", config=other) is not None


def test_a_lineage_with_a_checkpoint_is_refused_by_name(trained: tuple[Path, Registry]) -> None:
    with pytest.raises(ConfigError, match="--warm-start test:3: lineage test has a checkpoint and started from fresh"):
        found(trained, "test:3", checkpoints="checkpoints")
