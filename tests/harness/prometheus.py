"""A real Prometheus server for tests: a direct child on a free port that scrapes the given loopback ports."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

START_TIMEOUT_S = 60.0
SCRAPE_S = 1
_POLL_S = 0.1


class Series(msgspec.Struct, frozen=True):
    """One series of an instant query."""

    metric: dict[str, str]
    value: tuple[float, str]


class _Result(msgspec.Struct, frozen=True):
    result: list[Series]


class _Answer(msgspec.Struct, frozen=True):
    status: str
    data: _Result | None = None
    error: str = ""


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def query(self, expr: str) -> list[Series]:
        """Return the series of an instant query.

        Raises:
            RuntimeError: If the server refuses the expression.
        """
        parameters = urllib.parse.urlencode({"query": expr})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as response:
                answer = msgspec.json.decode(response.read(), type=_Answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{expr}: {error.read().decode()}") from error
        if answer.data is None:
            raise RuntimeError(f"{expr}: {answer.error}")
        return answer.data.result

    def wait_for(self, expr: str, num_series: int = 1) -> list[Series]:
        """Ask until an instant query gives at least `num_series` series.

        Raises:
            RuntimeError: If the server ends, or the series do not come in time.
        """
        found: list[Series] = []
        for _ in range(int(START_TIMEOUT_S / _POLL_S)):
            found = self.query(expr)
            if len(found) >= num_series:
                return found
            self._pause()
        raise RuntimeError(f"{expr}: expected {num_series} series in {START_TIMEOUT_S} s, got {found}")

    def wait_until_scraped(self, num_targets: int, times: int = 3) -> None:
        """Wait until that many targets were scraped `times` times with success."""
        self.wait_for(f"sum_over_time(up[{int(START_TIMEOUT_S) * 10}s]) >= {times}", num_targets)

    def _wait_until_ready(self) -> None:
        for _ in range(int(START_TIMEOUT_S / _POLL_S)):
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                    return
            except OSError:
                self._pause()
        raise RuntimeError(f"prometheus was not ready in {START_TIMEOUT_S} s:\n{self.log.read_text()}")

    def _pause(self) -> None:
        # Waiting for the child's end doubles as the pause between two looks.
        try:
            code = self.process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            return
        raise RuntimeError(f"prometheus ended with code {code}:\n{self.log.read_text()}")


def find_prometheus() -> str:
    """Return the path of the `prometheus` program.

    Raises:
        RuntimeError: If there is none.
    """
    found = shutil.which("prometheus")
    if found is None:
        raise RuntimeError("no prometheus found; on Debian: apt-get install prometheus")
    return found


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Sequence[int]], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Run a server in `folder` that scrapes and judges `rules` every second; `jobs` maps job name to loopback ports."""
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_S}s",
            "scrape_timeout": f"{SCRAPE_S}s",
            "evaluation_interval": f"{SCRAPE_S}s",
        },
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            for job, ports in jobs.items()
        ],
    }
    path = folder / "prometheus.json"
    # JSON is YAML.
    path.write_text(json.dumps(config))
    port = _free_port()
    log = folder / "prometheus.log"
    argv = [
        find_prometheus(),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    server = Prometheus(url=f"http://127.0.0.1:{port}", process=process, log=log)
    try:
        server._wait_until_ready()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
