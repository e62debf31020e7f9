from collections import Counter
from pathlib import Path

import pytest

from abtest.experiment import Arm
from serving.ranking import assignment
from serving.ranking.assignment import assignment_of
from stream.errors import SchemaError
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.experiment()
    return made


def test_golden_buckets(world: World) -> None:
    active = world.experiments.active("ranker")
    found = [assignment_of(client, active, None).bucket for client in ("c-1", "c-2", "c-3")]
    assert found == [6198, 8660, 8073]


def test_without_an_experiment_the_default_lineage_answers() -> None:
    found = assignment_of("c-1", None, "base")
    assert (found.lineage, found.experiment, found.bucket) == ("base", None, None)


def test_half_of_the_clients_are_in_each_arm(world: World) -> None:
    active = world.experiments.active("ranker")
    arms = Counter(assignment_of(f"client-{k}", active, None).arm for k in range(4_000))
    assert arms.keys() == {"control", "treatment"}
    assert abs(arms["control"] - 2_000) < 160  # five standard deviations


def test_clients_outside_of_the_experiment_get_the_default(world: World) -> None:
    world.experiments.stop("exp-1", now_ts=2)
    arms = (Arm(name="control", lineage="base", is_control=True), Arm(name="treatment", policy="shuffle"))
    active = world.experiments.create(key="exp-2", arms=arms, now_ts=3, share=0.5)
    found = [assignment_of(f"client-{k}", active, "base") for k in range(500)]
    outside = [decision for decision in found if decision.experiment is None]
    assert outside
    assert {decision.lineage for decision in outside} == {"base"}
    assert {decision.policy for decision in found if decision.arm == "treatment"} == {"shuffle"}


def test_the_local_copy_assigns_as_the_store_does(world: World, tmp_path: Path) -> None:
    active = world.experiments.active("ranker")
    assignment.save(active, tmp_path / "copy.json")
    copy = assignment.load(tmp_path / "copy.json")
    clients = [f"client-{k}" for k in range(300)]
    assert [assignment_of(c, copy, None) for c in clients] == [assignment_of(c, active, None) for c in clients]
    assignment.save(None, tmp_path / "copy.json")
    assert assignment.load(tmp_path / "copy.json") is None


def test_a_damaged_copy_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "copy.json"
    assignment.save(world.experiments.active("ranker"), path)
    whole = path.read_bytes()
    middle = whole.index(b'"table":"') + 50
    damaged = whole[:middle] + (b"A" if whole[middle : middle + 1] != b"A" else b"B") + whole[middle + 1 :]
    for raw in (damaged, whole[:-20], b"", whole.replace(b'"treatment"', b'"control2"')[:100]):
        path.write_bytes(raw)
        with pytest.raises(SchemaError):
            assignment.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(SchemaError, match="Is a directory"):
        assignment.load(path)


def test_a_full_disk_is_said_once_and_the_copy_is_made_up_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_path: Path, _content: bytes, *, mode: int) -> None:
        raise OSError("No space left on device")

    path = tmp_path / "copy.json"
    assigner = assignment.Assigner(world.experiments, layer="ranker", default_lineage=None, copy_path=path)
    with monkeypatch.context() as patch:
        patch.setattr(assignment, "replace_file", full)
        for _ in range(3):
            assert assigner.look()
            assigner.adopt()
    assert assigner.active is not None
    assert caplog.text.count("No space left on device") == 1
    assigner.adopt()
    assert assignment.load(path) is not None
