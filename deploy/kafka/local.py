"""One Apache Kafka (KRaft, single node, loopback) as a detached process with its data under one folder.

Guarantees: survives `kill -9` with its data; a stop signals only a process that runs our own configuration file.
"""

import base64
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from deploy.free_ports import free_ports, is_free
from deploy.kafka import jars
from deploy.kafka.jars import Report
from stream.broker.connection import is_reachable
from stream.broker.settings import Broker
from stream.errors import BusError

_START_S = 120.0
_STOP_S = 60.0
# Java reads the path of its working folder by the locale, which may be plain ASCII.
_UTF8 = ("env", "LC_ALL=C.UTF-8")
# The optimizing compiler pays after hours under load; a local broker spent half its processor time on it.
_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djava.awt.headless=true")
_STARTED = b"Kafka Server started"
# A broker ends when it cannot write; it needs more than this for its first indexes.
_LEAST_FREE_BYTES = 16 << 20
_CAUSE = re.compile(r"ERROR|FATAL|Exception|Error:")
_SHOWN = 400
# The controller refuses a restarted broker while it still counts the killed one as alive; the default is 9 s.
_SESSION_MS = 6_000
# A broker outlives the object that started it; its process record is kept so that a stop can reap it.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The local broker as it is now; `pid` is None when it does not run."""

    address: str
    pid: int | None
    ready: bool
    folder: str


class LocalKafka:
    """The local broker whose data, log and process id lie in `folder`."""

    def __init__(self, folder: Path, *, port: int, heap_mb: int, jar_folder: Path, report: Report) -> None:
        """Describe the broker; nothing is started.

        Args:
            folder: Its home; created when it starts.
            port: Wanted port, 0 for any; a port once used is kept while it is free, so that clients find it again.
            heap_mb: Java heap.
            jar_folder: Where the jars are or shall be.
            report: Receives one line per step (download, format, start).
        """
        self._folder = folder.resolve()
        self._port = port
        self._heap_mb = heap_mb
        self._jars = jar_folder.resolve()
        self._report = report
        self._config = self._folder / "server.properties"
        self._pid_file = self._folder / "kafka.pid"
        self._log = self._folder / "kafka.log"

    def start(self) -> Broker:
        """Start the broker unless it runs, wait until it answers, and return its address.

        Raises:
            BusError: If Java 17+ or the jars are missing, or it does not answer in time.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "lock").touch()
        except OSError as error:
            raise BusError(f"{self._folder}: {error.strerror}; set SHELFWISE_HOME to a folder to write to") from error
        with self._lock():
            pid = self._pid()
            if pid is not None and self._wait(lambda: is_reachable(self.broker), lambda: self._is_ours(pid)):
                return self.broker
            # Not running, or it ended while it was looked at.
            log_size = self._log.stat().st_size if self._log.is_file() else 0
            child = self._launch()
            # Just after its start a child's command line is still empty, so only its exit status can tell.
            is_alive = lambda: child.poll() is None  # noqa: E731
            # Clients that ask too early leave sockets behind, so the log is asked first.
            if not self._wait(lambda: _STARTED in self._log_since(log_size), is_alive):
                raise BusError(f"Kafka ended while it was starting: {self._last_words(log_size)}")
            if not self._wait(lambda: is_reachable(self.broker), is_alive):
                raise BusError(f"Kafka ended after it had started: {self._last_words(log_size)}")
        return self.broker

    def stop(self) -> bool:
        """Stop the broker by SIGTERM and wait for its end; return whether one was running.

        Raises:
            BusError: If it does not end within a minute; it is never killed.
        """
        if not self._folder.is_dir():
            return False
        with self._lock():
            pid = self._pid()
            if pid is None:
                return False
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            while self._is_ours(pid):
                if time.monotonic() > deadline:
                    raise BusError(f"Kafka (process {pid}) has not stopped within {_STOP_S:.0f} s, see {self._log}")
                time.sleep(0.05)
            if child := _children.pop(pid, None):
                child.wait()
            self._pid_file.unlink(missing_ok=True)
        return True

    def status(self) -> Status:
        """Return the state without changing it."""
        pid = self._pid()
        ready = pid is not None and is_reachable(self.broker)
        return Status(address=self.broker.bootstrap, pid=pid, ready=ready, folder=str(self._folder))

    def fault(self) -> str | None:
        """Return the reason why the broker cannot work, with the remedy; None if none is known."""
        if not self._folder.is_dir():
            return None
        if shutil.disk_usage(self._folder).free < _LEAST_FREE_BYTES:
            return (
                f"no space left on the disk of {self._folder}: free some, or set SHELFWISE_HOME to a folder on another "
                "disk"
            )
        if self._pid_file.is_file() and self._pid() is None:
            return f"the local Kafka has ended, see {self._log}; `shelfwise kafka up` starts it again"
        return None

    @property
    def broker(self) -> Broker:
        """The address, whether it runs or not."""
        return Broker(bootstrap=self._address())

    @property
    def folder(self) -> Path:
        """Home of the broker."""
        return self._folder

    @property
    def pid(self) -> int | None:
        """Process id, or None when it does not run."""
        return self._pid()

    def _launch(self) -> subprocess.Popen[bytes]:
        java = jars.java()
        if java is None:
            raise BusError(f"the local Kafka needs Java {jars.MIN_JAVA} or newer on the PATH")
        jars.ensure(self._jars, self._report)
        if shutil.disk_usage(self._folder).free < _LEAST_FREE_BYTES:
            raise BusError(self.fault())
        port, controller = self._choose_ports()
        self._write_config(port, controller)
        if not (self._folder / "data" / "meta.properties").is_file():
            self._report(f"formatting {self._folder / 'data'}")
            self._format(java)
        self._report(f"starting Kafka on 127.0.0.1:{port} (log: {self._log})")
        with (self._folder / "kafka.out").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                [
                    *_UTF8,
                    java,
                    *_JAVA,
                    f"-Xmx{self._heap_mb}m",
                    f"-Xms{min(self._heap_mb, 256)}m",
                    *self._options(),
                    self._mark,
                    "kafka.Kafka",
                    self._config.name,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._folder,
            )
        _children[process.pid] = process
        self._pid_file.write_text(str(process.pid))
        return process

    @property
    def _mark(self) -> str:
        return f"-Dshelfwise.config={self._config}"

    def _options(self) -> list[str]:
        # Relative paths, as in the configuration. Java reads a colon of the class path as a separator.
        jar_folder = os.path.relpath(self._jars, self._folder)
        if ":" in jar_folder:
            raise BusError(f"local_kafka.jars = '{self._jars}': a folder of jars cannot hold ':' in its path")
        return [
            "-Dlog4j2.configurationFile=log4j2.properties",
            f"-Dshelfwise.log={self._log.name}",
            "-cp",
            f"{jar_folder}/*",
        ]

    def _format(self, java: str) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # The tool would take a leading hyphen for an option.
        command = ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster_id}"]
        run = subprocess.run(  # noqa: S603
            [*_UTF8, java, *_JAVA, *self._options(), *command, "-c", self._config.name],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
        )
        if run.returncode:
            said = (run.stderr or run.stdout).strip().splitlines()
            raise BusError(f"Kafka storage tool: {' '.join(said[:3])[:500]}")

    def _write_config(self, port: int, controller: int) -> None:
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            # Relative to the working folder: a comma, a colon, a backslash or text beyond ASCII in the path of the
            # home would be read as syntax, or in another encoding.
            "log.dirs": "data",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "num.recovery.threads.per.data.dir": "2",
            "broker.session.timeout.ms": str(_SESSION_MS),
            "broker.heartbeat.interval.ms": "1000",
        }
        self._config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        shipped = files("deploy.kafka").joinpath("log4j2.properties").read_bytes()
        (self._folder / "log4j2.properties").write_bytes(shipped)

    def _choose_ports(self) -> tuple[int, int]:
        used = self._ports()
        if used and all(is_free(port) for port in used):
            return used
        wanted = (self._port, self._port + 1)
        if self._port and all(is_free(port) for port in wanted):
            return wanted
        if self._port:
            self._report(f"port {self._port} or {self._port + 1} is taken by another program, using free ones")
        return free_ports()

    def _ports(self) -> tuple[int, int] | None:
        if not self._config.is_file():
            return None
        properties = dict(line.split("=", 1) for line in self._config.read_text().splitlines() if "=" in line)
        ports = [int(listener.rsplit(":", 1)[1]) for listener in properties["listeners"].split(",")]
        return ports[0], ports[1]

    def _address(self) -> str:
        ports = self._ports()
        return f"127.0.0.1:{ports[0] if ports else self._port}"

    def _wait(self, is_done: Callable[[], bool], is_alive: Callable[[], bool]) -> bool:
        """Wait until `is_done`; return False when the process is gone before."""
        deadline = time.monotonic() + _START_S
        while not is_done():
            if not is_alive():
                return False
            if time.monotonic() > deadline:
                raise BusError(f"Kafka is not ready on {self._address()} after {_START_S:.0f} s, see {self._log}")
            time.sleep(0.1)
        return True

    def _log_since(self, size: int) -> bytes:
        written = self._log.read_bytes() if self._log.is_file() else b""
        return written[size:] if len(written) >= size else written

    def _last_words(self, log_size: int) -> str:
        if fault := self.fault():
            return fault
        output = self._folder / "kafka.out"
        said = self._log_since(log_size) or (output.read_bytes() if output.is_file() else b"")
        lines = said.decode(errors="replace").strip().splitlines()
        causes = [line for line in lines if _CAUSE.search(line)] or lines[-1:] or ["no message"]
        return f"{causes[-1][:_SHOWN]}; see {self._log}"

    def _pid(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        # Process ids are reused: only a process that was given our own configuration file is ours.
        command = _command_line(pid)
        return "kafka.Kafka" in command and self._mark in command

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Wait for other processes that start this broker or make its topics, and keep them waiting meanwhile."""
        with (self._folder / "topics.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _command_line(pid: int) -> list[str]:
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return []
    shown = subprocess.run(  # noqa: S603
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.split()
