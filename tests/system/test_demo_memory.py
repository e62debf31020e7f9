"""The demo on the memory broker: it passes, it can be interrupted at any moment, and it leaves nothing running."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.demo import arms
from deploy.demo.summary import DemoSummary
from tests.harness.demo import DemoProcess, demo, running_in, wait_until_none

pytestmark = pytest.mark.system
OPTIONS = ("--hours", "0.5", "--rate", "600", "--seed", "5", "--publish-s", "300")
# So short a run has no evidence for a first version.
MEMORY = {"SHELFWISE_BROKER": "memory", "SHELFWISE_TRAINER__HOLD_LISTS": "0"}
# Half a simulated hour takes a minute at least, so that there is time to interrupt the shoppers.
SLOW = MEMORY | {"SHELFWISE_MARKETPLACE__PACE": "30"}
INTERRUPTED = 130
(LINEAGE,) = arms.DEFAULT_LINEAGES


def _is_starting(running: DemoProcess) -> bool:
    return running.pid("trainer", "run", LINEAGE) is not None


def _is_between_two_starts(running: DemoProcess) -> bool:
    return "joiner is ready" in running.said


def _is_shopping(running: DemoProcess) -> bool:
    return running.samples("serving").total("shelfwise_serving_requests_total") > 0


MOMENTS: dict[str, Callable[[DemoProcess], bool]] = {
    "before the first child": lambda running: "memory broker" in running.said,
    "items": lambda running: running.pid("marketplace", "publish-items") is not None,
    "start": _is_starting,
    "readiness": _is_between_two_starts,
    "shoppers": _is_shopping,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_stops_every_child(moment: str, tmp_path: Path) -> None:
    with demo(tmp_path, *OPTIONS, settings=SLOW) as running:
        running.wait_for(moment, lambda: MOMENTS[moment](running))
        assert running.interrupt() == INTERRUPTED, running.words()
        assert running_in(running.home) == []
        assert "Traceback" not in running.said
    assert not (tmp_path / "demo" / "summary.json").exists()


def test_demos_after_each_other_in_one_home(tmp_path: Path) -> None:
    """Killed, interrupted in its drain, then left to its end twice: each starts from what the one before left."""
    with demo(tmp_path, *OPTIONS, settings=SLOW) as running:
        running.wait_for("shoppers", lambda: _is_shopping(running))
        assert len(running_in(running.home)) >= 6
        running.kill()
        wait_until_none(running.home)

    with demo(tmp_path, *OPTIONS, settings=MEMORY) as running:
        shoppers = ("marketplace", "run")
        running.wait_for("the shoppers", lambda: running.pid(*shoppers) is not None)
        running.wait_for("the drain", lambda: running.pid(*shoppers) is None)
        assert running.interrupt() == INTERRUPTED, running.words()
        assert running_in(running.home) == []

    for _ in range(2):
        with demo(tmp_path, *OPTIONS, settings=MEMORY) as running:
            summary = running.finish()
            assert running_in(running.home) == []
            assert "nothing is durable" in running.said
        _check(summary)


def _check(summary: DemoSummary) -> None:
    assert summary.broker.startswith("memory@")
    assert summary.conservation.closed, summary.conservation
    assert summary.conservation.produced > 200
    assert summary.sessions_in_sql == summary.sessions_in_topic == summary.searches > 200
    assert {row.lineage: row.published > 0 for row in summary.versions} == {LINEAGE: True}
    assert Path(summary.report_html).stat().st_size > 1_000
