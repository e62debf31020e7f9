"""The ranking service as a process of its own."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stream.broker.settings import Broker
from tests.harness.stores import complete_schema


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def environment_of(home: Path, database: str | None, broker: Broker | None = None) -> dict[str, str]:
    """Return the environment of a program with this home folder, database and broker and no other settings."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("SHELFWISE_")}  # noqa: TID251
    found["SHELFWISE_HOME"] = str(home)
    if database is not None:
        found["SHELFWISE_DATABASE"] = database
    if broker is not None:
        found["SHELFWISE_BROKER"] = f"memory@{broker.bootstrap}" if broker.memory else broker.bootstrap
    return found


@contextmanager
def process(
    home: Path,
    broker: Broker,
    port: int,
    *flags: str,
    drain_s: float = 0,
    settings: Mapping[str, object] | None = None,
    num_files: int | None = None,
    log: Path | None = None,
    cores: set[int] | None = None,
    database: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `shelfwise serving run`, and kill the process at the end if it still runs.

    Args:
        home: Its home folder.
        broker: The broker.
        port: Its port.
        flags: Further flags of the command.
        drain_s: Seconds of its drain.
        settings: Further settings of the section `serving`.
        num_files: Files that it may open; as many as this process if it is None.
        log: File for its standard error.
        cores: Processor cores on which it runs; those of this process if it is None.
        database: URL of its database with all tables; the one in its home folder if it is None.
    """
    if database is None:
        complete_schema(f"sqlite:///{home}/shelfwise.db")
    program = [sys.executable, "-c", "from deploy.cli import main; main()"]
    chosen = {"default_lineage": "base", "deadline_ms": 60_000, "drain_s": drain_s, **(settings or {})}
    sets = [word for name, value in chosen.items() for word in ("--set", f"serving.{name}={value}")]
    with ExitStack() as stack:
        child = subprocess.Popen(
            [*program, *sets, "serving", "run", "--port", str(port), *flags],
            env=environment_of(home, database, broker),
            cwd=Path(__file__).parents[2],
            stderr=stack.enter_context(log.open("wb")) if log else None,
        )
        if num_files is not None:
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (num_files, num_files))
        if cores is not None:
            os.sched_setaffinity(child.pid, cores)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
