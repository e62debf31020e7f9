"""Teachers of a demo's page ranker: rankers of one item type, which learn until each has a version.

Then they end, and the page ranker starts to learn, from the beginning of the log and from their orders.

Source: docs/training.md, "SMAR".
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from deploy.demo import processes
from deploy.demo.arms import LearnedArm
from deploy.demo.environment import variable
from deploy.supervisor import Child, Supervisor
from stream.errors import ConfigError, StoreError
from stream.setting_fields import as_text
from trainer.features.item_types import ITEM_TYPES

PUPIL: Final = "smar"
"""Model that has teachers."""
OTHER_TYPES: Final = 0.4
"""Share of items in the shop that are no products, unless the caller chooses another one."""
_MODEL: Final = "din"
_INTERVALS: Final = 4
"""Versions of other lineages that are due until a teacher's first one: a type has a part of the labels only."""


def check(types: Sequence[str], lineages: Sequence[str], *, drill: bool) -> None:
    """Refuse teachers that cannot be meant.

    Raises:
        ConfigError: If a type is unknown or named twice, no lineage learns from teachers, or there is a drill, which
            waits for all trainers from the start.
    """
    for name in types:
        if name not in ITEM_TYPES:
            raise ConfigError(f"--teachers {name}: expected {', '.join(ITEM_TYPES)}")
        if types.count(name) > 1:
            raise ConfigError(f"--teachers names {name} twice")
    if types and PUPIL not in lineages:
        raise ConfigError(f"--teachers {types[0]}: only {PUPIL} has teachers, which --lineages does not name")
    if types and drill:
        raise ConfigError(f"--teachers {types[0]}: not in a drill, whose trainers learn from the start")


def lineage_of(item_type: str) -> str:
    """Return the lineage of the teacher of an item type.

    >>> lineage_of("video")
    'teacher-video'
    """
    return f"teacher-{item_type}"


def teacher(item_type: str, seed: int, env: Mapping[str, str], *, logs: Path, port: int, publish_s: int) -> Child:
    """Return the trainer of a teacher.

    Args:
        item_type: Type that it learns from.
        seed: Seed of fresh weights.
        env: Environment of the other trainers.
        logs: Folder of logs.
        port: Port of its metrics.
        publish_s: Seconds between two versions of the other trainers.
    """
    lineage = lineage_of(item_type)
    own = {"learning.item_type": item_type, "trainer.hold_lists": 0, "trainer.publish_s": _INTERVALS * publish_s}
    arm = LearnedArm(name=lineage, weight=0, lineage=lineage, model=_MODEL)
    return processes.trainer(
        arm, seed, {**env, **{variable(key): as_text(own[key]) for key in own}}, logs=logs, port=port
    )


class Teaching:
    """The teachers of one page ranker, and its start.

    Args:
        teachers: Trainer of each teacher, by lineage.
        ports: Ports of the teachers.
        pupil: Return the trainer of the page ranker with these teachers, as `--teacher` names them.
        port: Port of the page ranker.
        newest: Return the number of the newest version of a lineage, None if it has none.
        watermark_ms: Return the watermark of the trainer on a port.
        supervisor: Keeps trainers and shoppers running.
        report: Called with one line.
    """

    def __init__(
        self,
        teachers: Mapping[str, Child],
        ports: Sequence[int],
        pupil: Callable[[Sequence[str]], Child],
        port: int,
        *,
        newest: Callable[[str], int | None],
        watermark_ms: Callable[[int], int],
        supervisor: Supervisor,
        report: Callable[[str], None],
    ) -> None:
        self._teachers = teachers
        self._ports = ports
        self._pupil = pupil
        self._port = port
        self._newest = newest
        self._watermark_ms = watermark_ms
        self._supervisor = supervisor
        self._report = report
        self._until_ms: int | None = None
        self._is_over = False

    def begin(self) -> None:
        """Start the teachers."""
        for child in self._teachers.values():
            self._report(f"starting {child.name}")
            self._supervisor.start(child)

    def look(self) -> None:
        """Start the page ranker in place of its teachers once each has a version; let shoppers wait for it to catch up.

        What the database does not answer is left to the next look.
        """
        if self._is_over:
            return
        if self._until_ms is not None:
            if self._watermark_ms(self._port) >= self._until_ms:
                self._is_over = True
                self._supervisor.go_on(processes.SHOPPERS)
            return
        with suppress(StoreError):
            newest = {lineage: self._newest(lineage) for lineage in self._teachers}
            if None not in newest.values():
                self._hand_over([f"{lineage}:{number}" for lineage, number in newest.items()])

    def _hand_over(self, names: Sequence[str]) -> None:
        self._supervisor.pause(processes.SHOPPERS)
        # The same log brings the page ranker as far as the teachers, though no tick comes any more.
        self._until_ms = min(map(self._watermark_ms, self._ports))
        for child in self._teachers.values():
            self._supervisor.stop(child.name)
        pupil = self._pupil(names)
        self._report(f"{', '.join(names)} teach: starting {pupil.name}, shoppers wait for it")
        self._supervisor.start(pupil)
