"""A real PostgreSQL server for tests: a direct child on a free port, in a folder of its own, stopped at the end."""

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

START_TIMEOUT_S = 60.0
_POLL_S = 0.05
_USER = "shelfwise"
_PR_SET_PDEATHSIG = 1
# Fast, but a killed server forgets the newest commits; tests that kill it ask for "on", which is PostgreSQL's default.
# Each test has a database of its own, and autovacuum would visit hundreds of them in turn.
_FORGETFUL = ("synchronous_commit=off", "fsync=off", "full_page_writes=off", "autovacuum=off")


class PostgresServer:
    """One server: `kill` and `start` test recovery, `freeze` and `thaw` test time-outs.

    Args:
        folder: Home of the server.
        binaries: Folder with `initdb` and `postgres`.
        options: Further settings as `name=value`.
        wal_segment_mb: Size of a segment of the write-ahead log.
    """

    def __init__(
        self, folder: Path, binaries: Path, *, options: Sequence[str] = _FORGETFUL, wal_segment_mb: int = 16
    ) -> None:
        self._binaries = binaries
        self._options = options
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._account = unprivileged_account()
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        made = self._spawn(
            [
                "initdb",
                *("--pgdata", str(self._data)),
                *("--username", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
                f"--wal-segsize={wal_segment_mb}",
            ]
        )
        if made.wait(START_TIMEOUT_S) != 0:
            raise RuntimeError(f"initdb ended with code {made.returncode}:\n{self._log.read_text()}")

    @property
    def url(self) -> str:
        """URL of the server's first database."""
        return f"postgresql://{_USER}@127.0.0.1:{self._port}/postgres"

    @property
    def port(self) -> int:
        """Port on loopback."""
        return self._port

    @property
    def log(self) -> str:
        """Log of the server."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process id of the server's parent process, which must run."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while the parent process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process = self._spawn(
            [
                "postgres",
                *("-D", str(self._data), "-p", str(self._port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                *("-c", "shared_buffers=32MB", "-c", "max_connections=50"),
                *(argument for option in self._options for argument in ("-c", option)),
            ]
        )
        num_polls = int(START_TIMEOUT_S / _POLL_S)
        for _ in range(num_polls):
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                try:
                    code = self._process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
                raise RuntimeError(f"postgres ended with code {code}:\n{self._log.read_text()}") from None
            return
        self.kill()
        raise RuntimeError(f"postgres did not answer within {START_TIMEOUT_S} s:\n{self._log.read_text()}")

    def kill(self) -> None:
        """End the server and its backends at once, as a crash of the machine would."""
        if self._process is None:
            return
        processes = self._hold()
        # A survivor would hold the shared memory, and the next start would be refused.
        for process in reversed(processes):
            _signal(process, signal.SIGKILL)
        _wait_until(lambda: not any(_is_alive(child) for child in processes[1:]), "the backends are gone")
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Suspend the server and its backends: connections stay open, nothing answers."""
        for process in self._hold()[1:]:
            _signal(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen server."""
        for process in reversed(self.processes()):
            _signal(process, signal.SIGCONT)

    def _hold(self) -> list[int]:
        """Stop the parent process, so that it starts no more, and return all processes, the parent first."""
        _signal(self.pid, signal.SIGSTOP)
        _wait_until(lambda: _state(self.pid).startswith("T"), "the parent process has stopped")
        return self.processes()

    def limit_file_size(self, num_bytes: int | None) -> None:
        """Limit the size of files that the server and its future children write; None removes the limit."""
        account = self._account
        size = "unlimited" if num_bytes is None else str(num_bytes)
        for process in self.processes():
            # As the owner of the process: not every root may change the limits of others.
            subprocess.run(
                ["prlimit", "--pid", str(process), f"--fsize={size}:"],
                check=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )

    def processes(self) -> list[int]:
        """Return the process ids of the server, its parent process first."""
        return [self.pid, *_children(self.pid)]

    def stop(self) -> None:
        """Shut the server down, ending open connections."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def _spawn(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        account = self._account
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / argv[0]), *argv[1:]],
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )


def _children(parent: int) -> list[int]:
    shown = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in shown.splitlines()]
    return [int(pid) for pid, owner in pairs if int(owner) == parent]


def _state(pid: int) -> str:
    """Return the state of a process as `ps` shows it; nothing when it is gone."""
    return subprocess.run(
        ["/bin/ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()


def _is_alive(pid: int) -> bool:
    return _state(pid)[:1] not in {"", "Z", "X"}


def _wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {START_TIMEOUT_S:.0f} s: {what}")
        time.sleep(_POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def unprivileged_account() -> pwd.struct_passwd | None:
    """Return an account for the server, because PostgreSQL refuses to run as root; None if this process is not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL cannot run as root, and neither 'postgres' nor 'nobody' is an account here")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_binaries() -> Path:
    """Return the folder with `initdb` and `postgres`; Debian keeps them off the path.

    Raises:
        RuntimeError: If there is none.
    """
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    for initdb in reversed([Path(entry) for entry in found if entry]):
        if (initdb.parent / "postgres").exists():
            return initdb.parent
    raise RuntimeError("no PostgreSQL server found; on Debian: apt-get install postgresql")


def new_database(url: str, template: str = "template1") -> str:
    """Create a database on the server of `url`, a copy of the one named `template`, and return its URL."""
    name = f"test_{uuid.uuid4().hex}"
    names = sql.Identifier(name), sql.Identifier(template)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    return f"{url.rpartition('/')[0]}/{name}"


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Run a server of this test alone that keeps every acknowledged commit."""
    folder = Path(tempfile.mkdtemp(prefix="shelfwise-postgres-"))
    try:
        server = PostgresServer(folder, find_binaries(), options=("synchronous_commit=on",))
        server.start()
        try:
            yield server
        finally:
            if server.is_running:
                server.kill()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server that lives as long as the test run; `new_database` gives each test its own."""
    folder = Path(tempfile.mkdtemp(prefix="shelfwise-postgres-"))
    try:
        server = PostgresServer(folder, find_binaries())
        server.start()
        try:
            yield server.url
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
