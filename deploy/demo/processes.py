"""Processes of a demo: the command line of each, its port, and its readiness."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.demo.arms import LearnedArm
from deploy.demo.ports import PortReservation
from deploy.demo.scrape import ScrapeError, fetch
from deploy.supervisor import Child

JOINER = "joiner"
SINK = "sink"
WATCHER = "watcher"
SERVING = "serving"
CONTROLLER = "controller"
SHOPPERS = "shoppers"
# Two cores carry the whole loop here, so a model may wait longer for its turn than in a service of its own. No load
# balancer watches `/readyz`, so nothing is gained by a drain.
SERVING_FLAGS = ("--trust-event-ts", "--deadline-ms", "500", "--drain-s", "0")


WATCH_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports of the processes, on loopback; `trainers` by lineage."""

    joiner: int
    sink: int
    watcher: int
    serving: int
    controller: int
    trainers: Mapping[str, int]


def choose_ports(wanted: Ports, reservation: PortReservation, notify: Callable[[str], None]) -> Ports:
    """Return the wanted ports, each replaced by a free one if it is in use or reserved by another demo."""
    taken: set[int] = set()

    def choose(name: str, port: int) -> int:
        chosen = port if port not in taken and reservation.reserve(port) else reservation.reserve_any()
        if chosen != port:
            notify(f"port {port} is in use: {name} takes {chosen}")
        taken.add(chosen)
        return chosen

    return Ports(
        joiner=choose(JOINER, wanted.joiner),
        sink=choose(SINK, wanted.sink),
        watcher=choose(WATCHER, wanted.watcher),
        serving=choose(SERVING, wanted.serving),
        controller=choose(CONTROLLER, wanted.controller),
        trainers={lineage: choose(f"trainer {lineage}", port) for lineage, port in wanted.trainers.items()},
    )


def trainer_name(arm: LearnedArm) -> str:
    """Return the name of the trainer child of an arm."""
    return f"trainer-{arm.lineage}"


def joiner(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the join worker; the marketplace writes the ticks."""
    argv = ("stream", "worker", "--ticks", "driver", "--metrics-port", str(ports.joiner))
    return _child(JOINER, argv, env, logs)


def sink(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the sink that turns sessions into facts."""
    return _child(SINK, ("abtest", "sink", "--metrics-port", str(ports.sink)), env, logs)


def watcher(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the watcher that reports on the experiment, often, since the demo is short."""
    argv = ("abtest", "watch", "--watch-s", str(WATCH_S), "--metrics-port", str(ports.watcher))
    return _child(WATCHER, argv, env, logs)


def serving(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the ranking service; the requests carry the simulated time."""
    return _child(SERVING, ("serving", "run", "--port", str(ports.serving), *SERVING_FLAGS), env, logs)


def controller(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the controller that moves versions by their gates."""
    return _child(CONTROLLER, ("rollout", "run", "--metrics-port", str(ports.controller)), env, logs)


def trainer(
    arm: LearnedArm, seed: int, env: Mapping[str, str], *, logs: Path, port: int, teachers: Sequence[str] = ()
) -> Child:
    """Return the trainer of an arm's lineage, which learns from these versions too."""
    argv = ("trainer", "run", arm.lineage, "--model", arm.model, "--profile", "tiny", "--seed", str(seed))
    named = tuple(word for name in teachers for word in ("--teacher", name))
    return _child(trainer_name(arm), (*argv, *named, "--metrics-port", str(port)), env, logs)


def shoppers(env: Mapping[str, str], logs: Path, ports: Ports) -> Child:
    """Return the shoppers, which end by themselves; they hold the simulated clock, so they are not restarted."""
    argv = ("marketplace", "run", "--serving", f"http://127.0.0.1:{ports.serving}", "--json")
    return replace(once(SHOPPERS, argv, env, logs), output=logs / f"{SHOPPERS}.json")


def once(name: str, argv: tuple[str, ...], env: Mapping[str, str], logs: Path) -> Child:
    """Return a command that ends by itself and must succeed; it is not restarted."""
    return replace(_child(name, argv, env, logs), restart=False)


def is_ready(port: int) -> bool:
    """Return whether the process on loopback `port` is ready for its work."""
    try:
        fetch(port, "/readyz")
    except ScrapeError:
        return False
    return True


def _child(name: str, argv: tuple[str, ...], env: Mapping[str, str], logs: Path) -> Child:
    return Child(name=name, argv=(sys.executable, "-m", "deploy", *argv), env=env, log=logs / f"{name}.log")
