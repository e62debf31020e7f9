"""Run of the loop from an empty folder to the lift table; it leaves no process behind."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, select

from abtest.settings import AbtestSettings
from abtest.store import ExperimentStore
from abtest.tables import sink_offsets
from deploy.configuration import Context
from deploy.demo import arms, closing_summary, processes, progress, teaching
from deploy.demo.backpressure import Backpressure
from deploy.demo.broker import DemoBroker
from deploy.demo.drill import DemoDrill
from deploy.demo.environment import SHOP, child_environment
from deploy.demo.ports import PortReservation
from deploy.demo.processes import SHOPPERS, Ports
from deploy.demo.summary import DemoSummary
from deploy.demo.told_lines import ToldLines
from deploy.migrations import upgrade
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.truth import MARK
from deploy.supervisor import Child, Supervisor, tail
from serving.settings import ServingSettings
from stream import db
from stream.agents.settings import WorkerSettings
from stream.broker.settings import Broker
from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError, ShelfwiseError
from stream.join.settings import JoinSettings
from trainer.rollout.settings import RolloutSettings
from trainer.settings import TrainerSettings
from trainer.versions.registry import Registry

READY_S = 240.0
DRAIN_S = 240.0
POLL_S = 0.25


class DemoError(ShelfwiseError):
    """Failure of a process of the demo to become ready or to finish in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a demo.

    Attributes:
        hours: Simulated hours with searches.
        rate: Searches per simulated hour.
        seed: Key of all random numbers.
        publish_s: Seconds of event time between two versions of a lineage.
        lineages: Models that learn, each in an arm of its own.
        drill: Whether a version of the first lineage learns flipped labels, for the gates to refuse.
        teachers: Item types whose rankers teach SMAR.
    """

    hours: float
    rate: float
    seed: int
    publish_s: int
    lineages: tuple[str, ...] = arms.DEFAULT_LINEAGES
    drill: bool = False
    teachers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Injected dependencies: clocks, jitter, progress output and environment variables.

    Attributes:
        now_ms: Epoch milliseconds.
        report: Called with one line of progress.
        ignore_interrupts: Called before the processes are stopped, which no signal may interrupt.
    """

    monotonic_s: Callable[[], float]
    now_ms: Callable[[], int]
    jitter: Callable[[], float]
    sleep: Callable[[float], None]
    report: Callable[[str], None]
    environment: Mapping[str, str]
    ignore_interrupts: Callable[[], None]


@dataclass(slots=True)
class _Clock:
    """Stopwatch: seconds by phase."""

    monotonic_s: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start_s = self.monotonic_s()
        try:
            yield
        finally:
            self.seconds[name] = round(self.monotonic_s() - start_s, 2)


def run(context: Context, options: Options, dependencies: Dependencies) -> DemoSummary:
    """Run the demo, write its summary to `<home>/demo/summary.json` and return it.

    The content of `<home>/demo` is removed first; the jars and everything outside of that folder stay.

    Raises:
        DemoError: If a process does not become ready or does not finish.
        ConfigError: If another demo runs in the same home folder.
    """
    home = context.home / "demo"
    home.mkdir(parents=True, exist_ok=True)
    with _exclusive(context.home / "demo.lock"):
        return _Demo(context, home.resolve(), options, dependencies).run()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another demo holds {path}; wait for it or set SHELFWISE_HOME") from error
        yield


class _Demo:
    def __init__(self, context: Context, home: Path, options: Options, dependencies: Dependencies) -> None:
        self._context = context
        self._home = home
        self._options = options
        self._arms = arms.all_arms(options.lineages)
        self._learned = arms.learned(options.lineages)
        teaching.check(options.teachers, options.lineages, drill=options.drill)
        self._dependencies = dependencies
        self._logs = home / "logs"
        self._clock = _Clock(dependencies.monotonic_s)
        self._broker = DemoBroker(context, home, dependencies.report)
        self._supervisor = Supervisor(
            monotonic_s=dependencies.monotonic_s, jitter=dependencies.jitter, notify=dependencies.report
        )
        self._reservation = PortReservation()
        self._drill: DemoDrill | None = None
        self._teaching: teaching.Teaching | None = None
        self._progress = progress.ProgressLines(
            dependencies.monotonic_s, dependencies.report, reported_at_s=dependencies.monotonic_s()
        )

    def run(self) -> DemoSummary:
        started_s = self._dependencies.monotonic_s()
        try:
            with self._clock.phase("broker"):
                broker = self._broker.start()
            with self._clock.phase("database"):
                engine, url = self._prepare_database()
            with self._clock.phase("start"):
                env = self._environment(broker, url)
                ports = self._choose_ports()
                self._start(engine, env, ports)
            with self._clock.phase("shoppers"):
                simulated = self._shop(engine, env, ports)
            with self._clock.phase("drain"):
                self._drain(broker, engine, ports, int(str(simulated["end_ts"])))
            swaps = progress.swaps(ports, [arm.lineage for arm in self._learned])
            with self._clock.phase("report"):
                summary = closing_summary.gather(
                    broker=broker,
                    engine=engine,
                    experiment=self._experiment(),
                    arms=self._arms,
                    join=self._context.settings.get("join", JoinSettings),
                    home=self._home,
                    seed=self._options.seed,
                    simulated=simulated,
                    swaps=swaps,
                    drill=self._drill,
                )
                engine.dispose()
        finally:
            with self._clock.phase("stop"):
                self._stop()
        self._clock.seconds["total"] = round(self._dependencies.monotonic_s() - started_s, 2)
        summary.seconds = dict(self._clock.seconds)
        (self._home / "summary.json").write_bytes(closing_summary.encode(summary))
        return summary

    def _prepare_database(self) -> tuple[Engine, str]:
        settings = self._context.settings.get("database", DatabaseSettings)
        url = settings.url or f"sqlite:///{self._home / 'shelfwise.db'}"
        upgrade.upgrade(url, settings)
        engine = db.create(url, settings)
        shown = engine.url.render_as_string(hide_password=True)
        with db.read(engine) as connection:
            is_used = connection.execute(select(sink_offsets.c.topic).limit(1)).first() is not None
        if is_used or ExperimentStore(engine).list():
            raise ConfigError(f"database.url = {shown}: the demo needs an empty database, this one holds experiments")
        self._dependencies.report(f"database {shown}")
        return engine, url

    def _experiment(self) -> str:
        return f"demo-{self._options.seed}"

    def _environment(self, broker: Broker, url: str) -> dict[str, str]:
        forced = {
            "kafka.partitions": self._broker.num_partitions,
            # Simulated time runs hundreds of times faster, so that a second of lag must not stop the training.
            "join.hold_behind_s": 86_400,
            "trainer.publish_s": self._options.publish_s,
            "learning.checkpoint_s": self._options.publish_s // 2,
            "marketplace.seed": self._options.seed,
            "marketplace.hours": self._options.hours,
            "marketplace.rate": self._options.rate,
        }
        shop = {**SHOP, **({"marketplace.other_types": teaching.OTHER_TYPES} if self._options.teachers else {})}
        return {
            **child_environment(self._context.settings, self._dependencies.environment, forced, shop),
            "SHELFWISE_HOME": str(self._home),
            "SHELFWISE_BROKER": f"memory@{broker.bootstrap}" if broker.memory else broker.bootstrap,
            "SHELFWISE_DATABASE": url,
        }

    def _choose_ports(self) -> Ports:
        trainer = self._context.settings.get("trainer", TrainerSettings).metrics_port
        abtest = self._context.settings.get("abtest", AbtestSettings)
        sink = abtest.metrics_port
        wanted = Ports(
            joiner=self._context.settings.get("worker", WorkerSettings).metrics_port,
            sink=sink,
            watcher=abtest.watch_port,
            serving=self._context.settings.get("serving", ServingSettings).port,
            controller=self._context.settings.get("rollout", RolloutSettings).metrics_port,
            # Behind the first trainer's port lies the sink's.
            trainers={arm.lineage: sink + n if n else trainer for n, arm in enumerate(self._learned)},
        )
        return processes.choose_ports(wanted, self._reservation, self._dependencies.report)

    def _start(self, engine: Engine, env: Mapping[str, str], ports: Ports) -> None:
        items = processes.once("items", ("marketplace", "publish-items"), env, self._logs)
        self._supervisor.start(items)
        self._create_experiment(engine)
        children = [
            (processes.joiner(env, self._logs, ports), ports.joiner),
            (processes.sink(env, self._logs, ports), ports.sink),
            *(
                (processes.trainer(arm, self._options.seed, env, logs=self._logs, port=port), port)
                for arm in self._learned
                for port in [ports.trainers[arm.lineage]]
                if not (self._options.teachers and arm.model == teaching.PUPIL)
            ),
            *([(processes.controller(env, self._logs, ports), ports.controller)] if self._options.drill else []),
            (processes.serving(env, self._logs, ports), ports.serving),
            (processes.watcher(env, self._logs, ports), ports.watcher),
        ]
        for child, _ in children:
            self._dependencies.report(f"starting {child.name}")
            self._supervisor.start(child)
        if self._options.teachers:
            self._teaching = self._teach(engine, env, ports)
            self._teaching.begin()
        self._await("the items", lambda: self._supervisor.exit_code(items.name) == 0, READY_S, items)
        self._supervisor.stop(items.name)
        for child, port in children:
            ready = partial(processes.is_ready, port)
            self._await(f"{child.name} to become ready", ready, READY_S, child)
            self._dependencies.report(f"{child.name} is ready: http://127.0.0.1:{port}/readyz")
        page = f"http://127.0.0.1:{ports.serving}/experiments/{self._experiment()}"
        self._dependencies.report(f"experiment '{self._experiment()}' as it runs: {page}")
        if self._options.drill:
            drilled = DemoDrill(engine, self._learned[0].lineage, self._dependencies.report, self._dependencies.now_ms)
            drilled.begin()
            self._drill = drilled

    def _teach(self, engine: Engine, env: Mapping[str, str], ports: Ports) -> teaching.Teaching:
        """Return the teachers of the page ranker, not started."""
        options, registry = self._options, Registry(engine)
        (arm,) = (each for each in self._learned if each.model == teaching.PUPIL)
        port = ports.trainers[arm.lineage]
        own = {each: self._reservation.reserve_any() for each in options.teachers}

        def newest(lineage: str) -> int | None:
            return max((each.version for each in registry.versions(lineage)), default=None)

        return teaching.Teaching(
            {
                teaching.lineage_of(each): teaching.teacher(
                    each, options.seed, env, logs=self._logs, port=own[each], publish_s=options.publish_s
                )
                for each in options.teachers
            },
            list(own.values()),
            lambda names: processes.trainer(arm, options.seed, env, logs=self._logs, port=port, teachers=names),
            port,
            newest=newest,
            watermark_ms=progress.watermark_ms,
            supervisor=self._supervisor,
            report=self._dependencies.report,
        )

    def _create_experiment(self, engine: Engine) -> None:
        # The epoch begins with the simulated time.
        start_ts = self._context.settings.get("marketplace", MarketplaceSettings).start_ts
        ExperimentStore(engine).create(
            key=self._experiment(),
            arms=[arm.stored() for arm in self._arms],
            weights=[arm.weight for arm in self._arms],
            now_ts=start_ts,
        )
        shares = ", ".join(f"{arm.name} {arm.weight:.0%}" for arm in self._arms)
        self._dependencies.report(f"experiment '{self._experiment()}': {shares} of the clients")

    def _shop(self, engine: Engine, env: Mapping[str, str], ports: Ports) -> dict[str, object]:
        child = processes.shoppers(env, self._logs, ports)
        searches = round(self._options.hours * self._options.rate)
        self._dependencies.report(f"shoppers: {searches} searches in {self._options.hours:g} simulated hours")
        self._supervisor.start(child)
        assert child.log is not None, "the shoppers have a log"
        told = ToldLines(child.log, MARK)
        backpressure = self._backpressure(engine, ports)
        while (code := self._supervisor.exit_code(SHOPPERS)) is None:
            self._watch()
            if backpressure is not None:
                backpressure.look()
            self._progress.take(ports)
            self._pass_on(told)
        self._pass_on(told)
        if code != 0:
            raise DemoError(f"the shoppers ended with code {code}\n{tail(child.log)}")
        output = child.output
        assert output is not None, "the shoppers write their summary to a file"
        simulated: dict[str, object] = json.loads(output.read_text())
        if simulated["serving_errors"]:
            share = f"{simulated['serving_errors']} of {simulated['queries']}"
            self._dependencies.report(f"warning: {share} searches got no list: {simulated['last_error']}")
        return simulated

    def _backpressure(self, engine: Engine, ports: Ports) -> Backpressure | None:
        """Return the backpressure of a drill, whose steps take the trainer's time; None without a drill."""
        if not self._options.drill:
            return None
        return Backpressure(
            engine,
            ports.trainers.values(),
            500 * self._options.publish_s,
            monotonic_s=self._dependencies.monotonic_s,
            pause=lambda: self._supervisor.pause(SHOPPERS),
            go_on=lambda: self._supervisor.go_on(SHOPPERS),
        )

    def _pass_on(self, told: ToldLines) -> None:
        for line in told.read():
            self._dependencies.report(line)

    def _drain(self, broker: Broker, engine: Engine, ports: Ports, end_ts: int) -> None:
        join = self._context.settings.get("join", JoinSettings)
        # Final position of every watermark, once all inputs and the last tick have been read.
        settled_ts = end_ts - join.idle_s * 1_000
        matured_ts = settled_ts - join.attribution_s * 1_000

        def drained() -> bool:
            self._progress.take(ports)
            # `_watch` restarts a broker that is gone.
            return progress.is_drained(broker, engine, ports, settled_ts=settled_ts, matured_ts=matured_ts)

        self._await("the log to be joined, learned and stored", drained, DRAIN_S)

    def _await(self, what: str, done: Callable[[], bool], limit_s: float, child: Child | None = None) -> None:
        deadline_s = self._dependencies.monotonic_s() + limit_s
        while not done():
            if self._dependencies.monotonic_s() > deadline_s:
                words = f"\n{tail(child.log)}" if child else ""
                raise DemoError(f"waited {limit_s:.0f} s for {what}; the logs are in {self._logs}{words}")
            self._watch()

    def _watch(self) -> None:
        self._supervisor.poll()
        self._broker.start_again_if_gone()
        if self._drill is not None:
            self._drill.look()
        if self._teaching is not None:
            self._teaching.look()
        self._dependencies.sleep(POLL_S)

    def _stop(self) -> None:
        self._dependencies.ignore_interrupts()
        try:
            self._supervisor.stop_all()
        finally:
            self._reservation.release()
            self._broker.stop()
