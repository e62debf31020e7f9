"""Teachers of a demo: they learn one type each, and the page ranker starts when all have a version."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.demo import processes
from deploy.demo.arms import learned
from deploy.demo.teaching import Teaching, check, teacher
from deploy.supervisor import Child, Supervisor
from stream.errors import ConfigError, StoreError


class Started(Supervisor):
    """A supervisor that notes what it would start and stop."""

    def __init__(self) -> None:
        super().__init__(monotonic_s=lambda: 0.0, jitter=lambda: 0.0, notify=lambda _line: None)
        self.log: list[str] = []
        self.argv: Sequence[str] = ()

    def start(self, child: Child) -> None:
        self.log.append(f"start {child.name}")
        self.argv = child.argv

    def stop(self, name: str, grace_s: float = 10.0) -> int:
        self.log.append(f"stop {name}")
        return 0

    def pause(self, name: str) -> None:
        self.log.append(f"pause {name}")

    def go_on(self, name: str) -> None:
        self.log.append(f"go on {name}")


def test_the_page_ranker_starts_when_each_teacher_has_a_version_and_shoppers_wait_for_it(tmp_path: Path) -> None:
    supervisor, versions, told = Started(), {"teacher-product": 2}, list[str]()
    watermarks = {7: 0, 11: 90, 12: 80}
    is_away = True

    def newest(lineage: str) -> int | None:
        if is_away:
            raise StoreError("the database is away")
        return versions.get(lineage)

    (arm,) = learned(["smar"])
    teaching = Teaching(
        {
            f"teacher-{name}": teacher(name, 1, {}, logs=tmp_path, port=0, publish_s=900)
            for name in ("product", "video")
        },
        (11, 12),
        lambda names: processes.trainer(arm, 1, {}, logs=tmp_path, port=7, teachers=names),
        7,
        newest=newest,
        watermark_ms=watermarks.__getitem__,
        supervisor=supervisor,
        report=told.append,
    )
    teaching.begin()
    teaching.look()
    is_away = False
    teaching.look()
    assert supervisor.log == ["start trainer-teacher-product", "start trainer-teacher-video"]
    supervisor.log.clear()
    versions["teacher-video"] = 1
    teaching.look()
    expected = [
        "pause shoppers",
        "stop trainer-teacher-product",
        "stop trainer-teacher-video",
        "start trainer-smar",
    ]
    assert supervisor.log == expected
    named = [word for at, word in enumerate(supervisor.argv) if supervisor.argv[at - 1] == "--teacher"]
    assert named == ["teacher-product:2", "teacher-video:1"]
    assert told[-1] == "teacher-product:2, teacher-video:1 teach: starting trainer-smar, shoppers wait for it"
    # They go on when it has read as far as the slowest teacher had.
    watermarks |= {7: 79, 11: 0, 12: 0}
    teaching.look()
    assert supervisor.log == expected
    watermarks[7] = 80
    for _ in range(2):
        teaching.look()
        assert supervisor.log == [*expected, "go on shoppers"]


def test_a_teacher_learns_one_type_and_takes_its_time(tmp_path: Path) -> None:
    made = teacher(
        "video", 3, {"SHELFWISE_TRAINER__PUBLISH_S": "900", "PATH": "/bin"}, logs=tmp_path, port=7, publish_s=900
    )
    assert made.env == {
        "PATH": "/bin",
        "SHELFWISE_LEARNING__ITEM_TYPE": "video",
        "SHELFWISE_TRAINER__HOLD_LISTS": "0",
        "SHELFWISE_TRAINER__PUBLISH_S": "3600",
    }
    assert made.argv[3:] == (
        *("trainer", "run", "teacher-video", "--model", "din", "--profile", "tiny", "--seed", "3"),
        *("--metrics-port", "7"),
    )


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["film"], "--teachers film: expected product, sponsored, video"),
        (["video", "video"], "--teachers names video twice"),
        (["video"], "--teachers video: only smar has teachers"),
    ],
)
def test_teachers_that_cannot_be_meant_are_refused(types: list[str], message: str) -> None:
    lineages = ["armmt"] if message.endswith("teachers") else ["armmt", "smar"]
    with pytest.raises(ConfigError, match=message):
        check(types, lineages, drill=False)


def test_a_drill_has_no_teachers() -> None:
    check([], ["smar"], drill=True)
    check(["product", "video"], ["armmt", "smar"], drill=False)
    with pytest.raises(ConfigError, match="--teachers product: not in a drill"):
        check(["product"], ["smar"], drill=True)
