"""The programs under measurement, as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.broker.settings import Broker
from stream.schemas import topics
from tests.bench.feed import NAIVE_OUTPUT, QUIX_INPUTS, QUIX_OUTPUT

_ROOT = Path(__file__).parents[2]
_PEERS = Path(__file__).parent / "peers"
PEER_PYTHON = _ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One program.

    Attributes:
        name: Name in the report.
        inputs: Topics with events; their commits show the progress.
        output: Topic with results.
        ready: Log line that shows the start of work.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    ready: str

    def command(self, broker: Broker, group: str, folder: Path, instance: str) -> list[str]:
        """Return the command line; `instance` names the static group member."""
        match self.name:
            case "shelfwise":
                options = ["--ticks", "driver", "--metrics-port", "0", "--instance", instance]
                return [sys.executable, "-m", "deploy", "stream", "worker", *options]
            case "quix":
                script = str(_PEERS / "quix_joiner.py")
                return [str(PEER_PYTHON), script, broker.bootstrap, group, str(folder / "quix")]
            case _:
                return [sys.executable, str(_PEERS / "naive_joiner.py"), broker.bootstrap, group]


SHELFWISE = Contender(name="shelfwise", inputs=topics.EVENT_TOPICS, output=topics.SESSIONS, ready="owns partitions")
QUIX = Contender(
    name="quix", inputs=tuple(QUIX_INPUTS.values()), output=QUIX_OUTPUT, ready="now processing incoming messages"
)
NAIVE = Contender(name="naive", inputs=(topics.IMPRESSIONS, topics.CLICKS), output=NAIVE_OUTPUT, ready="")
CONTENDERS = (SHELFWISE, QUIX, NAIVE)


class Running:
    """A contender's process and its log."""

    def __init__(
        self,
        contender: Contender,
        broker: Broker,
        group: str,
        folder: Path,
        *,
        instance: str = "bench",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{contender.name}.log"
        inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
        environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
        environment |= {
            "SHELFWISE_BROKER": broker.bootstrap,
            "SHELFWISE_HOME": str(folder),
            "SHELFWISE_WORKER__GROUP": group,
            "SHELFWISE_KAFKA__PARTITIONS": "12",
            **(settings or {}),
        }
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                contender.command(broker, group, folder, instance), env=environment, stdout=log, stderr=log, cwd=_ROOT
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def log(self) -> str:
        """Return the log of this process."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    def check(self) -> None:
        """Raise RuntimeError if the process has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._log.name}: exit status {self._process.returncode}\n{self.log()[-2_000:]}")

    def hold(self) -> None:
        """Suspend the process."""
        self._process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Continue the process."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process by SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)

    def stop(self) -> None:
        """End the process by SIGTERM, then by SIGKILL."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()


def missing(contenders: Sequence[Contender]) -> list[str]:
    """Return the names of contenders that cannot run here."""
    return [one.name for one in contenders if one is QUIX and not PEER_PYTHON.exists()]
