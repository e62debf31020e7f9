"""S13: a worker process whose wall clock is moved while it runs, by Debian's faketime."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.settings import JoinSettings
from stream.operations.export import newest, sessions
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import topics
from stream.schemas.session import Progress, decode
from tests.harness.worker import WorkerProcess
from tests.laws.join_log import Event, click, impression, purchase
from tests.stream.faults.fault_log import arrival

pytestmark = [pytest.mark.kafka, pytest.mark.system]
_LIBRARY = "libfaketimeMT.so.1"
_LIVE = {
    "SHELFWISE_JOIN__CLICK_WINDOW_S": "8",
    "SHELFWISE_JOIN__WAIT_S": "4",
    "SHELFWISE_JOIN__LATENESS_S": "3",
    "SHELFWISE_JOIN__IDLE_S": "3",
    "SHELFWISE_JOIN__ATTRIBUTION_S": "60",
    "SHELFWISE_JOIN__REFUND_S": "60",
    "SHELFWISE_JOIN__PROGRESS_S": "1",
}
_LIVE_SETTINGS = JoinSettings(
    click_window_s=8, wait_s=4, lateness_s=3, idle_s=3, attribution_s=60, refund_s=60, progress_s=1
)
_NUM_LISTS = 40


def _faked(steps: Path) -> dict[str, str]:
    """Return an environment whose wall clock is off by what the file says; monotonic clocks are not touched."""
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{_LIBRARY}"))
    assert found, "faketime is not installed; on Debian: apt-get install faketime"
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(steps),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _clock_of_a_child(environment: Mapping[str, str]) -> float:
    code = "import time; print(time.time())"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=dict(environment), capture_output=True, text=True, check=True
    )
    return float(shown.stdout)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _shop(broker: Broker, first: int) -> None:
    """Send lists that are shown now, clicked and bought at once: a third of them is not."""
    with Producer(broker) as producer:
        for number in range(first, first + _NUM_LISTS):
            client, now_ts = f"live-{number % 11}", _now_ms()
            happened: list[Event] = [impression(number, client=client)]
            if number % 3:
                happened.append(click(number, number, "item-1", client=client))
                happened.append(purchase(number, number, ["item-1"], client=client))
            for step, event in enumerate(happened):
                event.event_ts = now_ts + step
                sent = arrival(event)
                producer.send(sent.topic, key=sent.key, value=sent.value)


def _closed(broker: Broker) -> int:
    return len(newest(sessions(read_to_end(broker, topics.SESSIONS))))


def test_s13_the_clock_of_a_running_worker_is_stepped(fresh_kafka: Broker, tmp_path: Path) -> None:
    """S13: an hour back, then half an hour ahead, under a worker that writes its own ticks: sessions and time hold."""
    steps = tmp_path / "steps"
    steps.write_text("+0")
    environment = _faked(steps)
    worker = WorkerProcess(fresh_kafka, tmp_path / "home", settings=_LIVE | environment, ticks="worker")
    try:
        for number, step_s in enumerate((0, -3_600, 1_800)):
            steps.write_text(f"{step_s:+d}")
            assert abs(_clock_of_a_child(environment) - time.time() - step_s) < 60, "the clock was not moved"  # noqa: TID251
            _shop(fresh_kafka, number * _NUM_LISTS)
            deadline = time.monotonic() + 120
            while _closed(fresh_kafka) < (number + 1) * _NUM_LISTS:
                assert worker.process.poll() is None, worker.log
                assert time.monotonic() < deadline, f"{_closed(fresh_kafka)} sessions closed\n{worker.log}"
                time.sleep(0.5)
        ended_ts = _now_ms()
        assert worker.stop() == 0, worker.log
    finally:
        if worker.process.poll() is None:
            worker.kill()
    names = (*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS)
    records = [record for name in names for record in read_to_end(fresh_kafka, name)]
    verdict = verify(records, _LIVE_SETTINGS)
    assert verdict.is_equal, verdict
    assert recount(records, _LIVE_SETTINGS).is_closed
    assert sum(end_offsets(fresh_kafka, [topics.UNJOINED, topics.DEAD_LETTERS]).values()) == 0
    reports: dict[int, list[Progress]] = {}
    for record in records:
        content = decode(record.value or b"") if record.topic == topics.SESSIONS else None
        if isinstance(content, Progress):
            reports.setdefault(content.partition, []).append(content)
    assert reports
    for found in reports.values():
        times = [(report.now_ts, report.watermark_ts) for report in found]
        assert times == sorted(times)
        assert all(now_ts <= ended_ts and watermark_ts <= ended_ts for now_ts, watermark_ts in times)
