"""A real PgBouncer before the PostgreSQL server of the tests, as a direct child on a free port."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.harness.postgres import unprivileged_account

START_TIMEOUT_S = 30.0
_POLL_S = 0.05
_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 3
"""


def find() -> str | None:
    """Return the program; Debian keeps it off the path of ordinary users."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@contextmanager
def transaction_pooler(url: str) -> Iterator[str]:
    """Yield the URL of the database at `url` through a PgBouncer that pools transactions."""
    program = find()
    assert program is not None, "pgbouncer is not installed"
    account = unprivileged_account()
    parts = conninfo_to_dict(url)
    user, server_port = parts["user"], parts["port"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = Path(tempfile.mkdtemp(prefix="shelfwise-pgbouncer-"))
    folder.chmod(0o755)
    users, settings, log = folder / "users.txt", folder / "pgbouncer.ini", folder / "log"
    users.write_text(f'"{user}" ""\n')
    settings.write_text(_CONFIGURATION.format(server_port=server_port, port=port, users=users))
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        pooled = url.replace(f":{server_port}", f":{port}")
        try:
            _wait_until_it_answers(pooled, process, log)
            yield pooled
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait(START_TIMEOUT_S)
    finally:
        shutil.rmtree(folder)


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    conninfo = make_conninfo(url, connect_timeout=5)
    for _ in range(int(START_TIMEOUT_S / _POLL_S)):
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            assert process.poll() is None, f"pgbouncer ended with code {process.returncode}:\n{log.read_text()}"
            time.sleep(_POLL_S)
        else:
            return
    raise AssertionError(f"pgbouncer did not answer within {START_TIMEOUT_S:.0f} s:\n{log.read_text()}")
