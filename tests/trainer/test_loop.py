"""The same log gives the same weights after any crash or refused write."""

import errno
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from stream import db
from stream.errors import ArtifactError, ConfigError
from stream.schemas.session import Session, decode, encode
from tests.harness.sessions import unlinked
from tests.trainer.harness import LINEAGE, SETTINGS, Crash, feed, make_loop, weights
from tests.trainer.lists import hashes
from tests.trainer.session_log import ListFeed, LogRecord, make_items, make_log
from trainer.configs import Vocabulary
from trainer.learning.shuffled_evidence import ShuffledEvidence
from trainer.lineage import Lineage
from trainer.loop import Loop
from trainer.versions import artifact, checkpoint, writing
from trainer.versions.registry import Registry

POINTS = [
    f"{place}.{step}"
    for place in ("artifact", "checkpoint")
    for step in ("before_write", "after_write", "after_fsync", "before_rename", "after_rename")
] + ["before_row", "after_row", "after_verified", "after_live"]


def make_engine(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


@pytest.fixture(scope="module")
def log() -> list[LogRecord]:
    return make_log()


@pytest.fixture(scope="module")
def short_log() -> list[LogRecord]:
    """The start of the log, for tests of many points: four versions of six."""
    return make_log(160)


Undisturbed = tuple[dict[str, bytes], dict[str, int], int]
"""Weights, counters and the number of the last version of a run without a crash."""


def run_undisturbed(folder: Path, log: list[LogRecord]) -> Undisturbed:
    loop = make_loop(folder, make_engine(folder))
    feed(loop, log)
    return weights(loop), dict(loop.learner.counters), loop.progress.version


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord]) -> Undisturbed:
    return run_undisturbed(tmp_path_factory.mktemp("undisturbed"), log)


@pytest.fixture(scope="module")
def undisturbed_short(tmp_path_factory: pytest.TempPathFactory, short_log: list[LogRecord]) -> Undisturbed:
    return run_undisturbed(tmp_path_factory.mktemp("undisturbed-short"), short_log)


def crash_at(point: str, visit: int) -> Callable[[str], None]:
    visits = 0

    def failpoint(name: str) -> None:
        nonlocal visits
        visits += name == point
        if name == point and visits == visit:
            raise Crash(point)

    return failpoint


def has_base(folder: Path, engine: Engine) -> list[bool]:
    """Return whether each version is a delta, oldest first."""
    addresses = [version.artifact for version in Registry(engine).versions("test")]
    return [artifact.read_manifest(folder / "artifacts", address).base is not None for address in addresses]


def test_run_trains_and_publishes(undisturbed: Undisturbed) -> None:
    _, counters, version = undisturbed
    assert counters["trained"] == 240 + 80
    assert version == 6


@pytest.mark.no_cover
@pytest.mark.parametrize("piece", [1, 10_000])
def test_same_log_same_weights_at_any_poll_size(
    tmp_path: Path, log: list[LogRecord], undisturbed: Undisturbed, piece: int
) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path))
    feed(loop, sorted(log, key=lambda record: record.partition) if piece > 1 else log, piece)
    assert weights(loop) == undisturbed[0]
    assert dict(loop.learner.counters) == undisturbed[1]


@pytest.mark.slow
@pytest.mark.parametrize("visit", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_crash_at_each_point_resumes_to_equal_weights(
    tmp_path: Path,
    short_log: list[LogRecord],
    undisturbed_short: Undisturbed,
    point: str,
    visit: int,
) -> None:
    engine = make_engine(tmp_path)
    with pytest.raises(Crash):
        feed(make_loop(tmp_path, engine, failpoint=crash_at(point, visit)), short_log)
    resumed = make_loop(tmp_path, engine)
    feed(resumed, short_log)
    assert weights(resumed) == undisturbed_short[0]
    assert dict(resumed.learner.counters) == undisturbed_short[1]
    versions = Registry(engine).versions("test")
    assert [version.version for version in versions] == list(range(1, undisturbed_short[2] + 1))
    assert [version.status for version in versions] == ["superseded"] * (undisturbed_short[2] - 1) + ["live"]
    assert [version.parent for version in versions[1:]] == [version.artifact for version in versions[:-1]]
    for version in versions:
        writing.verify_golden(artifact.load(tmp_path / "artifacts", version.artifact))
    assert has_base(tmp_path, engine) == [False] + [True] * (undisturbed_short[2] - 1)


@pytest.mark.no_cover
def test_resume_from_the_checkpoint_before_when_the_newest_is_damaged(
    tmp_path: Path, log: list[LogRecord], undisturbed: Undisturbed
) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), log[:200])
    newest = sorted((tmp_path / "checkpoints").glob("0*"))[-1]
    damaged = newest / "dense.safetensors"
    raw = bytearray(damaged.read_bytes())
    raw[-5] ^= 1
    damaged.write_bytes(bytes(raw))
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == undisturbed[0]


def single_partition(records: list[bytes]) -> list[LogRecord]:
    return [LogRecord(0, offset, value) for offset, value in enumerate(records)]


def test_undecodable_records_are_passed_over(tmp_path: Path, log: list[LogRecord]) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1)
    feed(loop, single_partition([b"\xff", *(r.value for r in log if r.partition == 0)]))
    assert loop.progress.num_undecodable == 1
    assert loop.learner.counters["trained"] > 0


@pytest.mark.no_cover
def test_unlinked_lines_change_no_weight(tmp_path: Path, log: list[LogRecord], undisturbed: Undisturbed) -> None:
    offsets: Counter[int] = Counter()
    mixed = []
    for record in log:
        for value in (encode(unlinked("c", "t")), record.value):
            mixed.append(LogRecord(record.partition, offsets[record.partition], value))
            offsets[record.partition] += 1
    loop = make_loop(tmp_path, make_engine(tmp_path))
    feed(loop, mixed)
    assert loop.progress.num_undecodable == 0
    assert weights(loop) == undisturbed[0]


@pytest.mark.no_cover
def test_every_checkpoint_is_skipped_but_those_of_versions_when_the_wall_clock_stands(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    rare = replace(SETTINGS, checkpoint_every_wall_s=60, deltas_per_base=0)
    loop = make_loop(tmp_path, engine, settings=rare)
    feed(loop, make_log())
    assert loop.progress.num_boundaries > loop.progress.num_published == 6
    assert len(list((tmp_path / "checkpoints").glob("0*"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("visit", [1, 2])
@pytest.mark.parametrize("step", ["before_write", "after_write", "after_fsync", "before_rename"])
@pytest.mark.parametrize("place", ["artifact", "checkpoint"])
def test_a_write_that_the_file_system_refuses_is_retried_and_learning_goes_on(
    tmp_path: Path,
    short_log: list[LogRecord],
    undisturbed_short: Undisturbed,
    place: str,
    step: str,
    visit: int,
) -> None:
    visits = 0

    def full_disk(name: str) -> None:
        nonlocal visits
        visits += name == f"{place}.{step}"
        if name == f"{place}.{step}" and visits == visit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engine = make_engine(tmp_path)
    ticks = itertools.count()
    loop = make_loop(tmp_path, engine, failpoint=full_disk, monotonic_s=lambda: float(next(ticks)))
    feed(loop, short_log)
    assert loop.progress.num_failed_writes == 1
    assert weights(loop) == undisturbed_short[0]
    assert dict(loop.learner.counters) == undisturbed_short[1]
    versions = Registry(engine).versions("test")
    assert [version.version for version in versions] == list(range(1, undisturbed_short[2] + 1))
    assert [version.parent for version in versions[1:]] == [version.artifact for version in versions[:-1]]
    for version in versions:
        writing.verify_golden(artifact.load(tmp_path / "artifacts", version.artifact))
    assert not list((tmp_path / place.replace("artifact", "artifacts").replace("point", "points")).glob(".tmp-*"))
    resumed = make_loop(tmp_path, engine)
    feed(resumed, short_log)
    assert weights(resumed) == undisturbed_short[0]


def test_after_a_refused_write_the_next_attempt_waits_for_the_back_off(tmp_path: Path, log: list[LogRecord]) -> None:
    attempts = 0

    def always_full(name: str) -> None:
        nonlocal attempts
        if name == "checkpoint.before_write":
            attempts += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    loop = make_loop(tmp_path, make_engine(tmp_path), failpoint=always_full)
    feed(loop, log)
    assert loop.progress.num_boundaries > 2
    assert attempts == loop.progress.num_failed_writes == 1
    assert loop.progress.version == 0


def changed(**values: object) -> Lineage:
    return replace(LINEAGE, learning=replace(LINEAGE.learning, **values))  # type: ignore[arg-type] # fields by name


def test_a_changed_learning_setting_is_refused_by_name(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), make_log(60))
    old = LINEAGE.learning.batch
    with pytest.raises(ConfigError, match=re.escape(f"learning.batch was {old} and is 32; --adopt")):
        make_loop(tmp_path, engine, lineage=changed(batch=32)).start()


def test_an_adopted_setting_stands_in_every_later_manifest(tmp_path: Path) -> None:
    log, engine = make_log(160), make_engine(tmp_path)
    first = make_loop(tmp_path, engine)
    feed(first, log[:90])
    batches = checkpoint.newest(tmp_path / "checkpoints")
    assert batches is not None
    second = make_loop(tmp_path, engine, lineage=changed(lr=0.001), adopt=True)
    feed(second, log)
    # The adopted value is the lineage's own from now on.
    make_loop(tmp_path, engine, lineage=changed(lr=0.001)).start()
    manifests = [
        artifact.read_manifest(tmp_path / "artifacts", version.artifact)
        for version in Registry(engine).versions(LINEAGE.name)
    ]
    assert [manifest.learning["lr"] for manifest in (manifests[0], manifests[-1])] == [LINEAGE.learning.lr, 0.001]
    expected = checkpoint.Adoption(
        setting="learning.lr", old=LINEAGE.learning.lr, new=0.001, batch_number=batches.state.learning.batch_number
    )
    assert manifests[0].adopted == ()
    assert manifests[-1].adopted == (expected,)


def test_an_id_table_grows_on_resume_and_never_shrinks(tmp_path: Path) -> None:
    engine, log = make_engine(tmp_path), make_log()
    large = replace(LINEAGE, config=replace(LINEAGE.config, vocabulary=Vocabulary(item=10_000)))
    small = replace(LINEAGE, config=replace(LINEAGE.config, vocabulary=Vocabulary(item=22)))
    less = replace(LINEAGE, config=replace(LINEAGE.config, vocabulary=Vocabulary(item=21)))
    feed(make_loop(tmp_path, engine, lineage=small), log[:150])
    with pytest.raises(ConfigError, match=r"model\.vocabulary\.item was 22 and is 10000; --adopt takes"):
        make_loop(tmp_path, engine, lineage=large).start()
    with pytest.raises(ConfigError, match=r"model\.vocabulary\.item was 22 and is 21: id tables only grow"):
        make_loop(tmp_path, engine, lineage=less, adopt=True).start()
    loop = make_loop(tmp_path, engine, lineage=large, adopt=True)
    loop.start()
    names = [f"i{number}" for number in range(40)]
    before = loop.learner.id_maps.item.lookup(hashes(names))
    assert (before > 1).sum() == 20, "the small table was full"
    feed(loop, log)
    after = loop.learner.id_maps.item.lookup(hashes(names))
    assert (after > 1).all()
    assert after[before > 1].tolist() == before[before > 1].tolist()
    newest = Registry(engine).versions("test")[-1].artifact
    loaded = artifact.load(tmp_path / "artifacts", newest)
    assert loaded.manifest.capacities["item"] == 10_000
    assert [one.setting for one in loaded.manifest.adopted] == ["model.vocabulary.item"]
    resumed = make_loop(tmp_path, engine, lineage=large)
    resumed.start()
    assert resumed.learner.weights.capacities["item"] == 10_000


def test_settings_of_the_model_are_never_adopted(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), make_log(60))
    other = db.create("sqlite://")
    db.metadata.create_all(other)
    wider = replace(LINEAGE, config=replace(LINEAGE.config, d=16))
    with pytest.raises(ConfigError, match=r"model\.d was 8 and is 16; another model needs a lineage of its own"):
        make_loop(tmp_path, other, lineage=wider, adopt=True).start()


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "values",
    [
        {"dropout": 0.3, "warmup_steps": 8},
        {"precision": "bfloat16", "fused": True},
        {"optimizer": "adagrad", "fused": True, "weight_decay": 0.1},
    ],
    ids=["dropout", "bfloat16", "adagrad"],
)
def test_a_resumed_run_with_other_settings_is_bit_equal(tmp_path: Path, values: dict[str, object]) -> None:
    log = make_log(160)
    other_learning = changed(**values)

    def run(name: str, *pieces: int) -> Loop:
        own = db.create("sqlite://")
        db.metadata.create_all(own)
        for end in pieces:
            loop = make_loop(tmp_path / name, own, lineage=other_learning)
            feed(loop, log[:end])
        return loop

    whole = run("whole", len(log))
    assert weights(run("resumed", 70, 110, len(log))) == weights(whole)
    plain = db.create("sqlite://")
    db.metadata.create_all(plain)
    without = make_loop(tmp_path / "without", plain)
    feed(without, log)
    assert weights(without) != weights(whole)


def shuffled(log: list[LogRecord]) -> list[LogRecord]:
    """Return the log as if each list had been shown in random order, and as if a feature explained the clicks.

    Few lists then tell that the scores are better, also if the first weights are bad ones.
    """
    found = []
    for record in log:
        content = decode(record.value)
        if isinstance(content, Session):
            content.propensity = np.full(content.n, 1 / content.n, "<f4").tobytes()
            features = np.frombuffer(content.item_f16, "<f2").reshape(content.n, -1).copy()
            features[:, :8] = 3 * (np.frombuffer(content.clicks, "<u2")[:, None] > 0)
            content.item_f16 = features.tobytes()
        found.append(LogRecord(record.partition, record.offset, encode(content)))
    return found


HOLDING = replace(SETTINGS, hold_lists=40)


def test_without_shuffled_lists_the_first_version_waits(
    tmp_path: Path, log: list[LogRecord], undisturbed: Undisturbed
) -> None:
    engine = make_engine(tmp_path)
    loop = make_loop(tmp_path, engine, settings=HOLDING)
    feed(loop, log)
    assert Registry(engine).versions("test") == []
    assert loop.progress.num_held_back == undisturbed[2]
    assert weights(loop) == undisturbed[0], "what is learned does not depend on it"


def test_the_first_version_comes_when_enough_lists_say_that_it_is_better(tmp_path: Path, log: list[LogRecord]) -> None:
    engine = make_engine(tmp_path)
    loop = make_loop(tmp_path, engine, settings=HOLDING)
    feed(loop, shuffled(log))
    found = Registry(engine).versions("test")
    assert [version.version for version in found] == list(range(1, len(found) + 1))
    assert loop.progress.num_held_back > 0
    assert len(found) + loop.progress.num_held_back == 6
    first = artifact.read_manifest(tmp_path / "artifacts", found[0].artifact)
    # It counts half after the decision.
    assert 20 <= first.metrics["shuffled_lists"] < 40
    assert first.metrics["shuffled_lead"] > 0
    assert found[0].metrics["shuffled_lead"] == first.metrics["shuffled_lead"]


@pytest.mark.no_cover
@pytest.mark.parametrize(("was_ahead", "num_held_back"), [(False, 1), (True, 0)])
def test_one_good_number_is_not_enough(
    tmp_path: Path, log: list[LogRecord], was_ahead: bool, num_held_back: int
) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path), settings=HOLDING)
    loop.learner.shuffled = ShuffledEvidence(lists=1_000, lead=500.0, was_ahead=was_ahead)
    feed(loop, shuffled(log))
    assert loop.progress.num_held_back == num_held_back


@pytest.mark.no_cover
@pytest.mark.parametrize("point", ["checkpoint.after_rename", "before_row"])
def test_a_crash_changes_nothing_about_the_wait(tmp_path: Path, log: list[LogRecord], point: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    addresses = []
    for folder, failpoint in ((whole, lambda _name: None), (broken, crash_at(point, 1))):
        folder.mkdir()
        engine = make_engine(folder)
        try:
            feed(make_loop(folder, engine, settings=HOLDING, failpoint=failpoint), shuffled(log))
        except Crash:
            feed(make_loop(folder, engine, settings=HOLDING), shuffled(log))
        found = Registry(engine).versions("test")
        manifests = [artifact.read_manifest(folder / "artifacts", version.artifact) for version in found]
        addresses.append([(one.version, one.boundary_ts, one.metrics, one.files) for one in manifests])
    assert addresses[0] == addresses[1] != []


@pytest.mark.no_cover
def test_deltas_of_a_run_with_crashes_equal_full_versions(tmp_path: Path, log: list[LogRecord]) -> None:
    # In a small table ids whose sightings are forgotten soon take each other's rows.
    small = replace(changed(sighting_half_life_s=20), config=replace(LINEAGE.config, vocabulary=Vocabulary(item=12)))
    loaded, has_evicted = [], False
    for name, share, points in (
        ("full", 0.0, []),
        ("deltas", 1.0, ["artifact.after_rename", "after_row", "checkpoint.after_rename"]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        engine, settings = make_engine(folder), replace(SETTINGS, version_delta_share=share)
        for point in points:
            with pytest.raises(Crash):
                feed(make_loop(folder, engine, lineage=small, settings=settings, failpoint=crash_at(point, 2)), log)
        feed(make_loop(folder, engine, lineage=small, settings=settings), log)
        addresses = [version.artifact for version in Registry(engine).versions("test")]
        loaded.append([artifact.load(folder / "artifacts", address) for address in addresses])
    full, deltas = loaded
    assert [one.manifest.base is not None for one in full + deltas] == [False] * 7 + [True] * 5
    for one, other in zip(full, deltas, strict=True):
        for name, weight in one.params.items():
            assert torch.equal(other.params[name], weight)
        ids = other.id_maps.to_arrays(counts=False)
        for name, array in one.id_maps.to_arrays(counts=False).items():
            np.testing.assert_array_equal(ids[name], array)
        np.testing.assert_array_equal(one.golden_scores, other.golden_scores)
        has_evicted |= not np.array_equal(ids["item.low"], deltas[0].id_maps.to_arrays(counts=False)["item.low"])
    assert has_evicted


def test_a_version_that_its_damaged_base_refuses_is_followed_by_a_full_one(
    tmp_path: Path, log: list[LogRecord], undisturbed: Undisturbed
) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), log[:170])
    (base,) = (version.artifact for version in Registry(engine).versions("test")[:1])
    file = tmp_path / "artifacts" / base / "rows.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(ArtifactError, match=f"its base is refused: {base}/rows.safetensors"):
        feed(make_loop(tmp_path, engine), log)
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == undisturbed[0]
    found = Registry(engine).versions("test")
    statuses = [version.status for version in found]
    rejected = statuses.index("rejected")
    assert 1 < rejected < len(found) - 2
    assert [number for number, status in enumerate(statuses) if status != "superseded"] == [rejected, len(found) - 1]
    full = {0, rejected + 1}
    assert has_base(tmp_path, engine) == [number not in full for number in range(len(found))]


@pytest.mark.parametrize("loses", [False, True], ids=["adopted setting", "lost full version"])
def test_another_setting_or_a_lost_full_version_asks_for_a_full_one(
    tmp_path: Path, log: list[LogRecord], *, loses: bool
) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), log[:170])
    assert has_base(tmp_path, engine) == [False, True]
    full = Registry(engine).versions("test")[0].artifact
    lineage = LINEAGE if loses else changed(lr=0.001)
    if loses:
        (tmp_path / "artifacts" / full).rename(tmp_path / "lost")
    feed(make_loop(tmp_path, engine, lineage=lineage, adopt=True), log)
    if loses:
        (tmp_path / "lost").rename(tmp_path / "artifacts" / full)
    assert has_base(tmp_path, engine) == [False, True, False, True, True, True]


def test_a_lineage_refuses_items_of_another_vector_space(tmp_path: Path) -> None:
    records = make_log(60)
    loop = make_loop(tmp_path, make_engine(tmp_path))
    loop.start()
    loop.push(records[:40])
    assert loop.catalogue.text_space == "m"
    loop.feed = ListFeed([msgspec.structs.replace(item, text_model="other") for item in make_items()])
    with pytest.raises(ArtifactError, match="40 items have vectors of the space other, and 0 of m"):
        loop.push(records[40:])
