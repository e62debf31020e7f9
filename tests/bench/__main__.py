"""The program of `make bench-stream`, which runs all contenders and writes docs/benchmarks/stream.{json,md}."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from deploy.kafka.local import LocalKafka
from stream.broker.settings import Broker
from tests.bench.contenders import CONTENDERS, SHELFWISE, Contender, missing
from tests.bench.load import Load, LoadSettings, generate
from tests.bench.phases import Backlog, Paced, Shared, backlog, paced, shared
from tests.bench.report import Result, write

_ROOT = Path(__file__).parents[2]
_PACED_SHARE = 1 / 5


def main() -> int:
    """Measure and write the report."""
    options = _options()
    contenders = [one for one in CONTENDERS if one.name in options.only]
    for name in missing(contenders):
        say(f"{name} is left out: .venv-bench is missing, run `make bench-stream`")
    contenders = [one for one in contenders if one.name not in missing(contenders)]
    stored = generate(LoadSettings(num_queries=options.queries))
    steady = generate(
        LoadSettings(num_queries=int(options.queries * _PACED_SHARE), span_s=3_000, num_clients=8_000, seed=77)
    )
    say(f"backlog of {stored.num_events} events, then {steady.num_events} over {options.seconds:.0f} s")
    folder = Path(tempfile.mkdtemp(prefix="shelfwise-bench-"))
    kafka = LocalKafka(
        folder / "kafka", port=0, heap_mb=768, jar_folder=_ROOT / ".shelfwise" / "kafka" / "jars", report=say
    )
    broker = kafka.start()
    results: list[Result] = []
    try:
        for run in range(options.runs):
            for contender in contenders:
                try:
                    result = _measure(broker, contender, stored, steady, folder, run, options.seconds)
                except RuntimeError as fault:
                    say(f"run {run + 1} of {contender.name} is left out: {fault}")
                    continue
                results.append(result)
                say(f"run {run + 1} {result}")
    finally:
        kafka.stop()
        if options.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if results:
        write(Path(options.out), results, stored, steady, options.seconds)
    return 0 if results else 1


def _measure(
    broker: Broker, contender: Contender, stored: Load, steady: Load, folder: Path, run: int, seconds: float
) -> Result:
    name = f"{contender.name}-{run}"
    through: Backlog = backlog(broker, contender, stored, folder / f"{name}-backlog", f"{name}-backlog")
    pace: Paced = paced(broker, contender, steady, folder / f"{name}-paced", f"{name}-paced", seconds=seconds)
    teams: dict[int, list[Shared]] = {}
    # There and back, so that a host that grows slower favours neither.
    for turn, number in enumerate((1, 2, 2, 1) if contender is SHELFWISE else ()):
        team = f"{name}-{turn}-of-{number}"
        teams.setdefault(number, []).append(shared(broker, stored, folder / team, team, num_workers=number))
    return Result(contender=contender.name, run=run, backlog=through, paced=pace, teams=teams)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--queries", type=int, default=70_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the paced phase")
    parser.add_argument("--only", nargs="+", default=[one.name for one in CONTENDERS])
    parser.add_argument("--out", default=str(_ROOT / "docs" / "benchmarks" / "stream"), help="path without suffix")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    return parser.parse_args()


def say(line: str) -> None:
    """Report progress on standard error."""
    sys.stderr.write(f"[bench] {line}\n")


if __name__ == "__main__":
    sys.exit(main())
