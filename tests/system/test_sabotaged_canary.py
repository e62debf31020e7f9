"""A version with flipped labels from a trainer process, as a canary whose clients ask all the time (T7)."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from deploy.kafka.memory import MemoryBroker
from stream import db
from stream.broker.producer import Producer
from stream.replicas import catalogue
from stream.wall_clock import epoch_ms
from tests.harness.kafka import PARTITIONS
from tests.harness.stores import new_store
from tests.harness.trainer_process import Attempt, send
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import environment_of, free_port, process
from tests.serving.world import START_MS, body
from tests.trainer.harness import LINEAGE, SETTINGS
from tests.trainer.rollout.world import ServedLineage
from tests.trainer.session_log import make_items, make_log
from trainer.rollout import changes, policy
from trainer.rollout.slices import CANARY, CONTROL, salt, slice_of
from trainer.rollout.states import Move
from trainer.versions.leases import CONTROLLER
from trainer.versions.tables import DRILL

pytestmark = pytest.mark.system
NAME = LINEAGE.name
SETTINGS_OF_TRAINER = replace(SETTINGS, publish_s=40, metrics_port=0)
CLIENTS = [f"shopper-{number}" for number in range(1_000)]
BACK_WITHIN_S = 60.0
# Gate 7 alone can decide: the others wait for more than there will be.
POLICY = {
    "mode": "gated",
    "drill_version": "2",
    "canary_s": "1",
    "canary_queries": "1000000",
    "business_sessions": "100",
}


class Shoppers:
    """Clients who ask in rounds.

    Attributes:
        seen: Client to the versions that ranked its lists, one after another without repeats.
        shares: Share of the bad version in each round.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.seen: dict[str, list[str]] = {name: [] for name in CLIENTS}
        self.shares: list[float] = []

    def ask(self) -> dict[str, str]:
        """Let each client ask once, and return the version of its list."""
        found: dict[str, str] = {}
        for name in CLIENTS:
            asked = body(name, event_ts=START_MS, candidates=[{"item_id": f"i{number}"} for number in range(20)])
            reply = self._client.post("/v1/rank", json=asked)
            answer = reply.json()
            assert (reply.status_code, answer["fallback"]) == (200, None)
            found[name] = answer["version"]
            if self.seen[name][-1:] != [answer["version"]]:
                self.seen[name].append(answer["version"])
        self.shares.append(list(found.values()).count("2") / len(CLIENTS))
        return found


@contextmanager
def controller(url: str, home: Path) -> Iterator[None]:
    """Run `shelfwise rollout run`."""
    program = [sys.executable, "-c", "from deploy.cli import main; main()", "rollout", "run", "--metrics-port", "0"]
    child = subprocess.Popen(program, env=environment_of(home, url), cwd=Path(__file__).parents[2])
    try:
        yield
    finally:
        child.terminate()
        assert child.wait(60.0) in {0, 130}


def test_t7_a_version_with_flipped_labels_stays_in_its_slice_and_the_good_one_is_back_within_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_store(tmp_path / "test.db")
    lineage, port = ServedLineage(db.create(url), NAME), free_port()
    address = f"http://127.0.0.1:{port}"

    def trained(until: int) -> None:
        attempt = Attempt(
            home=tmp_path,
            broker=memory.broker,
            lineage=LINEAGE,
            settings=SETTINGS_OF_TRAINER,
            until=until,
            number=until,
        )
        assert attempt.exit_code() == 0

    with MemoryBroker(PARTITIONS) as memory:
        with Producer(memory.broker) as producer:
            catalogue.publish(producer, make_items())
        send(memory.broker, make_log(partitions=PARTITIONS))
        trained(1)
        lineage.command("policy", lambda view: changes.set_policy(view, POLICY, "drill"))
        settings = {"default_lineage": NAME, "trust_event_ts": "true"}
        with (
            process(tmp_path, memory.broker, port, settings=settings, database=url),
            httpx.Client(base_url=address, timeout=60.0) as client,
        ):
            wait_ready(address)
            shoppers = Shoppers(client)
            assert set(shoppers.ask().values()) == {"1"}
            trained(2)
            assert (lineage.status_of(2), lineage.version(2).metrics[DRILL]) == ("verified", 1)
            assert set(shoppers.ask().values()) == {"1"}

            view = lineage.store.view(NAME)
            share = policy.of(view.policy).share(None)
            assert share == 0.01
            leases, now_ms = lineage.registry.leases, epoch_ms()
            leases.ensure(CONTROLLER)
            # Free at once for the controller that watches the canary.
            term = leases.acquire(CONTROLLER, "test", now_ms, 0)
            move = Move(version=2, from_status="verified", to_status="canary", why="sabotage", share=share)
            assert lineage.store.move(view, move, policy.of(view.policy), term=term, now_ms=now_ms)
            key = salt(NAME, 2)
            in_canary = {name for name in CLIENTS if slice_of(name, key, share) == CANARY}
            assert in_canary
            wait_until(lambda: "2" in shoppers.ask().values())
            for _ in range(2):
                assert {name for name, version in shoppers.ask().items() if version == "2"} == in_canary

            with controller(url, tmp_path):
                for part, version, orders in ((CANARY, 2, 0), (CONTROL, 1, 1)):
                    lineage.search(part, version, at_ts=epoch_ms(), orders=orders)
                harmed_s = time.monotonic()
                wait_until(lambda: set(shoppers.ask().values()) == {"1"}, BACK_WITHIN_S)
                back_s = time.monotonic() - harmed_s
            assert set(shoppers.ask().values()) == {"1"}
    assert [lineage.status_of(number) for number in (1, 2)] == ["live", "rolled_back"]
    assert lineage.store.view(NAME).rewind_to == 1
    assert max(shoppers.shares) == len(in_canary) / len(CLIENTS)
    assert {name for name, seen in shoppers.seen.items() if seen == ["1", "2", "1"]} == in_canary
    assert all(seen == ["1"] for name, seen in shoppers.seen.items() if name not in in_canary)
    lineage.engine.dispose()
    with capsys.disabled():
        print(  # noqa: T201 - figures of a run that takes a minute
            f"\n{len(shoppers.shares)} rounds of {len(CLIENTS)} clients: at most {max(shoppers.shares):.1%} had the "
            f"bad version, all had the good one {back_s:.1f} s after the first harm"
        )
