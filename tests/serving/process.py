"""The ranking service as a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream.broker.settings import Broker
from tests.harness.stores import complete_schema


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


@contextmanager
def process(
    home: Path, broker: Broker, port: int, *flags: str, drain_s: float = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `shelfwise serving run`, and kill the process at the end if it still runs."""
    complete_schema(f"sqlite:///{home}/shelfwise.db")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHELFWISE_")}  # noqa: TID251
    environment |= {"SHELFWISE_HOME": str(home), "SHELFWISE_BROKER": broker.bootstrap}
    program = [sys.executable, "-c", "from deploy.cli import main; main()"]
    child = subprocess.Popen(
        [
            *(*program, "--set", "serving.default_lineage=base", "serving", "run"),
            *("--port", str(port), "--deadline-ms", "5000", "--drain-s", str(drain_s), *flags),
        ],
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
