"""The parts of the demo that need no running loop: its books, ports, database, lock and schema."""

import fcntl
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import msgspec
import pytest

from abtest.store import ExperimentStore
from deploy import configuration
from deploy.configuration import Context
from deploy.demo import arms, closing_summary, processes
from deploy.demo.ports import PortReservation
from deploy.demo.processes import Ports, choose_ports
from deploy.demo.run import Dependencies, Options, run
from deploy.demo.scrape import ScrapeError, fetch, parse
from deploy.demo.summary import (
    ALL_OUTCOMES,
    Conservation,
    DemoSummary,
    Drill,
    LiftRow,
    LineageSummary,
    Truth,
    closes,
)
from stream import db, settings
from stream.broker.settings import Broker
from stream.errors import ConfigError
from tests.harness.stores import new_store

COMMITTED = Path(__file__).parents[3] / "docs" / "schemas" / "demo-summary.json"
OPTIONS = Options(hours=0.1, rate=100, seed=7, publish_s=600)
BOOKS = {"joined": 5, "duplicate": 1, "late": 1, "orphan": 2, "dead": 1, "open": 0}


def test_books_close_when_both_counts_agree_and_add_up() -> None:
    assert closes(10, BOOKS, BOOKS)
    assert closes(10, BOOKS, {outcome: count for outcome, count in BOOKS.items() if count})


@pytest.mark.parametrize("outcome", ALL_OUTCOMES)
def test_books_do_not_close_when_one_event_is_missing(outcome: str) -> None:
    short = BOOKS | {outcome: BOOKS[outcome] - 1}
    assert not closes(10, short, BOOKS)
    assert not closes(10, BOOKS, short)
    assert not closes(10, short, short)


def test_books_do_not_close_when_an_event_changes_its_outcome() -> None:
    moved = BOOKS | {"joined": 4, "orphan": 3}
    assert sum(moved.values()) == 10
    assert not closes(10, moved, BOOKS)


def test_an_encoded_summary_follows_the_committed_schema() -> None:
    document = msgspec.json.decode(closing_summary.encode(_summary()))
    validator = jsonschema.Draft202012Validator(msgspec.json.decode(COMMITTED.read_bytes()))
    assert list(validator.iter_errors(document)) == []
    assert document["lifts"][0]["lift"] is None, "what is undefined is null, not zero"
    del document["conservation"]["closed"]
    (fault,) = validator.iter_errors(document)
    assert "'closed' is a required property" in fault.message


@pytest.fixture
def reservation() -> Iterator[PortReservation]:
    reservation = PortReservation()
    yield reservation
    reservation.release()


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
def test_demos_that_start_together_take_different_ports(reservation: PortReservation) -> None:
    """Nothing listens yet: the children of both are still starting."""
    wanted, other = _free_ports(), PortReservation()
    first = choose_ports(wanted, reservation, lambda _line: None)
    second = choose_ports(wanted, other, lambda _line: None)
    other.release()
    assert first == wanted
    assert len({*_numbers(first), *_numbers(second)}) == 14
    reservation.release()
    assert choose_ports(wanted, reservation, lambda _line: None) == wanted, "a demo that has ended reservation nothing"


def _numbers(ports: Ports) -> tuple[int, ...]:
    return (ports.joiner, ports.sink, ports.watcher, ports.serving, ports.controller, *ports.trainers.values())


def test_free_ports_are_kept(reservation: PortReservation) -> None:
    notes: list[str] = []
    wanted = _free_ports()
    assert choose_ports(wanted, reservation, notes.append) == wanted
    assert notes == []


def test_a_port_in_use_is_replaced_and_told(reservation: PortReservation) -> None:
    notes: list[str] = []
    wanted = _free_ports()
    with _listening(wanted.serving):
        chosen = choose_ports(wanted, reservation, notes.append)
    assert (chosen.joiner, chosen.sink, chosen.trainers) == (wanted.joiner, wanted.sink, wanted.trainers)
    assert chosen.serving not in {*_numbers(wanted)}
    assert notes == [f"port {wanted.serving} is in use: serving takes {chosen.serving}"]


def test_one_port_wanted_twice_is_given_once(reservation: PortReservation) -> None:
    port = _free_ports().joiner
    chosen = choose_ports(
        Ports(
            joiner=port, sink=port, watcher=port, serving=port, controller=port, trainers={"prm": port, "armmt": port}
        ),
        reservation,
        lambda _line: None,
    )
    assert chosen.joiner == port
    assert len({*_numbers(chosen)}) == 7


def test_children_listen_where_the_demo_says(tmp_path: Path) -> None:
    ports = _free_ports()
    children = [
        (processes.joiner({}, tmp_path, ports), ports.joiner),
        (processes.sink({}, tmp_path, ports), ports.sink),
        (processes.watcher({}, tmp_path, ports), ports.watcher),
        (processes.serving({}, tmp_path, ports), ports.serving),
        (processes.controller({}, tmp_path, ports), ports.controller),
        (
            processes.trainer(arms.learned(["armmt"])[0], 3, {}, logs=tmp_path, port=(port := ports.trainers["armmt"])),
            port,
        ),
    ]
    assert all(str(port) in child.argv and child.restart for child, port in children)
    shoppers = processes.shoppers({}, tmp_path, ports)
    assert f"http://127.0.0.1:{ports.serving}" in shoppers.argv
    assert not shoppers.restart


def test_a_second_demo_in_the_same_home_is_refused(tmp_path: Path) -> None:
    left = tmp_path / "demo" / "summary.json"
    left.parent.mkdir()
    left.write_text("{}")
    with (tmp_path / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"another demo holds .*demo\.lock"):
            run(_context(tmp_path, {}), OPTIONS, _dependencies([]))
    assert left.exists(), "what the other demo writes is not touched"


def test_a_database_with_an_experiment_is_refused(tmp_path: Path, memory_broker: Broker) -> None:
    url = new_store(tmp_path / "mine.db")
    engine = db.create(url)
    ExperimentStore(engine).create(key="mine", arms=[arm.stored() for arm in arms.all_arms(["prm"])], now_ts=1)
    left = tmp_path / "demo" / "logs" / "joiner.log"
    left.parent.mkdir(parents=True)
    left.write_text("of an earlier demo")
    flags = {"kafka.broker": f"memory@{memory_broker.bootstrap}", "database.url": url}
    with pytest.raises(ConfigError, match=r"needs an empty database"):
        run(_context(tmp_path, flags), OPTIONS, _dependencies([]))
    assert [found.key for found in ExperimentStore(engine).list()] == ["mine"]
    engine.dispose()
    assert not left.exists(), "what an earlier demo left is removed"


def test_samples_are_summed_over_labels() -> None:
    found = parse('a_total{x="1",y="p"} 2\na_total{x="1",y="q"} 3\na_total{x="2",y="q"} 5\n')
    assert found.total("a_total", x="1") == 5
    assert found.total("a_total", x="1", y="q") == 3
    assert found.total("b_total") == 0
    assert found.has("a_total")
    assert not found.has("b_total")


def test_a_silent_port_is_an_error_of_ours() -> None:
    with pytest.raises(ScrapeError, match=r"http://127\.0\.0\.1:\d+/metrics"):
        fetch(_free_ports().joiner, "/metrics")


def _context(home: Path, flags: Mapping[str, object]) -> Context:
    resolved = settings.load(
        configuration.sections(), toml="", toml_name="", environment={}, aliases=configuration.ALIASES, flags=flags
    )
    return Context(home=home, settings=resolved, config_file=None)


def _dependencies(notes: list[str]) -> Dependencies:
    return Dependencies(
        monotonic_s=lambda: 0.0,
        now_ms=lambda: 0,
        jitter=lambda: 0.0,
        sleep=lambda _seconds: None,
        report=notes.append,
        environment={},
        ignore_interrupts=lambda: None,
    )


def _free_ports() -> Ports:
    probes = [socket.socket() for _ in range(7)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    joiner, sink, watcher, serving, controller, *trainers = (int(probe.getsockname()[1]) for probe in probes)
    for probe in probes:
        probe.close()
    by_lineage = dict(zip(("prm", "armmt"), trainers, strict=True))
    return Ports(joiner=joiner, sink=sink, watcher=watcher, serving=serving, controller=controller, trainers=by_lineage)


@contextmanager
def _listening(port: int) -> Iterator[None]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield


def _summary() -> DemoSummary:
    return DemoSummary(
        shelfwise="0.1.0",
        broker="127.0.0.1:9092",
        seed=1,
        searches=10,
        simulated_hours=0.5,
        conservation=Conservation(produced=10, by_counters=BOOKS, by_recount=BOOKS, closed=True),
        sessions_in_topic=5,
        sessions_in_sql=5,
        versions=[LineageSummary(lineage="armmt", arm="armmt", published=2, served=2, freshness=None)],
        experiment="demo-1",
        lifts=[LiftRow(metric="cvr", arm="armmt", control=0.0, treatment=0.1, lift=None, lo=None, hi=None, p=None)],
        truth=Truth(arms=[], versions=[], random=-0.33, best=0.89, now={"armmt": 0.14}),
        drill=Drill(
            lineage="armmt",
            version=4,
            outcome="rejected",
            why="shadow: rank correlation -0.400, at least 0.5 is asked",
            trainer_back_at=3,
            live_again=6,
            lists=0,
            steps=["armmt v4: labels flipped on purpose"],
        ),
        sample_ratio_p=None,
        report_html="report.html",
        seconds={"total": 1.0},
    )
