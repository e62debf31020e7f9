"""The program of `make bench-trainer`: the learner against a bare torch loop, into docs/benchmarks/trainer.{json,md}.

Both run the same model on the same lists in the same process, in turns. The bare loop has its tensors prebuilt and does
forward pass, loss, gradient and optimizer step, nothing else. Figures are CPU time of one thread, so that other work on
the machine disturbs them less than the clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct, structs
from torch import Tensor

from stream.schemas.session import Session, decode, encode
from tests.bench.report import commit, hardware
from tests.trainer.lists import MemoryCatalogue, catalogue, served
from trainer.configs import LEARNING_PROFILES, LearningSettings
from trainer.features import ExampleBuilder, collate, stream_labels
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning.determinism import make_deterministic
from trainer.learning.freed_memory import keep_freed_memory
from trainer.learning.learner import Learner
from trainer.learning.losses import total_loss
from trainer.models import MODELS, ModelConfig, TensorBatch, call, to_torch
from trainer.models.unique_rows import gather_unique_rows

_ITEMS = 2_000
_CANDIDATES = 30
_BEHAVIOURS = 15
_WIDTH = 16


class Row(Struct, kw_only=True):
    """Sessions per second of CPU time by round, and microseconds per session of each part of the input path.

    Attributes:
        compiled: The product with `learning.compile`, where it was measured, and `compile_s` the seconds of the clock
            that its first step took.
    """

    model: str
    profile: str
    batch: int
    product: list[float]
    bare: list[float]
    compiled: list[float] = []
    compile_s: float = 0.0
    input_us: dict[str, float]


class Report(Struct, kw_only=True):
    """All figures of one run of the program."""

    commit: str
    hardware: dict[str, str]
    torch: str
    rows: list[Row]


class Bare:
    """The smallest loop that trains the same model: prebuilt tensors, gathered rows, AdamW."""

    def __init__(self, model: str, config: ModelConfig, learning: LearningSettings) -> None:
        self._config = config
        self._module = MODELS[model].build(config)
        params = MODELS[model].init(config, 0)
        self._rows = {name: table for name, table in params.items() if name.startswith("rows.")}
        self._dense = {name: weight.requires_grad_() for name, weight in params.items() if name not in self._rows}
        self._optimizer = torch.optim.AdamW(self._dense.values(), lr=learning.lr, fused=learning.fused)
        self._lr = learning.rows_lr

    def epoch(self, batches: Sequence[tuple[TensorBatch, dict[str, Tensor]]]) -> None:
        """Train all batches."""
        for batch, slots in batches:
            self.step(batch, slots)

    def step(self, batch: TensorBatch, slots: dict[str, Tensor]) -> None:
        """Train one batch."""
        rows = {name: self._rows[name][own].requires_grad_() for name, own in slots.items()}
        outputs = call(self._module, {**self._dense, **rows}, batch)
        loss, _ = total_loss(outputs, batch, self._config)
        gradients = torch.autograd.grad(loss, [*self._dense.values(), *rows.values()], allow_unused=True)
        for weight, gradient in zip(self._dense.values(), gradients, strict=False):
            weight.grad = gradient
        self._optimizer.step()
        with torch.no_grad():
            for (name, own), gradient in zip(slots.items(), gradients[len(self._dense) :], strict=True):
                if gradient is not None:
                    self._rows[name][own] -= self._lr * gradient


def sessions(count: int, known: MemoryCatalogue) -> list[Session]:
    """Return lists of 30 candidates with 15 behaviours each, one bought item in four lists, two clicked ones in all."""
    found = []
    for seed in range(count):
        request = served(seed, known, n=_CANDIDATES, depth=_BEHAVIOURS)
        rng = np.random.default_rng([1, seed])
        shown = rng.permutation(_CANDIDATES).tolist()
        bought = shown[:1] if seed % 4 == 0 else []
        found.append(request.session(shown, orders=bought, clicks=shown[:2], gross_minor=1_999))
    return found


def records(log: Sequence[Session], turn: int) -> list[bytes]:
    """Return the lists as records of new queries: the learner trains a query once."""
    return [encode(structs.replace(one, query_id=f"{turn}-{one.query_id}")) for one in log]


def learn(learner: Learner, raw: Sequence[bytes], known: MemoryCatalogue, turn: int) -> None:
    """Decode records and train them, as the loop does."""
    decoded = [decode(one) for one in raw]
    placed = tuple(
        OrderedSession(Key(turn, 0, offset), one) for offset, one in enumerate(decoded) if isinstance(one, Session)
    )
    step = learner.learn(SessionBatch(placed, (False,) * len(placed)), known)
    assert step.num_trained == len(placed), f"{step.num_trained} of {len(placed)} lists were trained"


def rate(count: int, run: Callable[[], object]) -> float:
    """Return sessions per second of CPU time."""
    start = time.process_time()
    run()
    return count / (time.process_time() - start)


def warm(
    model: str, config: ModelConfig, learning: LearningSettings, log: list[Session], known: MemoryCatalogue
) -> Learner:
    """Return a learner that knows the ids of the log's beginning, after two steps."""
    learner = Learner(model, config, learning, device=torch.device("cpu"))
    for turn in range(2):
        learn(learner, records(log[: learning.batch], turn), known, turn)
    learner.at_boundary(60_000, None)
    return learner


def measure(
    model: str, profile: str, batch: int, *, rounds: int, steps: int, known: MemoryCatalogue, compiles: bool
) -> Row:
    """Run product, bare loop and, if asked for, the product with compiled steps in turns."""
    config = replace(MODELS[model].profiles[profile], vector_width=_WIDTH)
    learning = replace(LEARNING_PROFILES["tiny"], batch=batch)
    log = sessions(batch * steps, known)
    learner = warm(model, config, learning, log, known)
    prebuilt = list(_prebuilt(learner, log, known))
    bare = Bare(model, config, learning)
    bare.step(*prebuilt[0])
    row = Row(model=model, profile=profile, batch=batch, product=[], bare=[], input_us=_input_us(learner, log, known))
    for turn in range(2, 2 + rounds):
        raw = records(log, turn)
        row.product.append(rate(len(log), lambda raw=raw, turn=turn: learn(learner, raw, known, turn)))  # type: ignore[misc]
        row.bare.append(rate(len(log), lambda: bare.epoch(prebuilt)))
    if compiles:
        start = time.perf_counter()
        learner = warm(model, config, replace(learning, compile=True), log, known)
        row.compile_s = time.perf_counter() - start
        for turn in range(2, 2 + rounds):
            raw = records(log, turn)
            row.compiled.append(rate(len(log), lambda raw=raw, turn=turn: learn(learner, raw, known, turn)))  # type: ignore[misc]
    return row


def _prebuilt(
    learner: Learner, log: Sequence[Session], known: MemoryCatalogue
) -> Iterator[tuple[TensorBatch, dict[str, Tensor]]]:
    size, config = learner.learning.batch, learner.config
    for start in range(0, len(log), size):
        examples, _ = ExampleBuilder(known).from_sessions(log[start : start + size])
        arrays = collate(examples, learner.id_maps, width=config.vector_width, history=config.history)
        local, touched, _ = gather_unique_rows(arrays)
        yield to_torch(local), {f"rows.{table}": torch.from_numpy(slots) for table, slots in touched.items()}


def _input_us(learner: Learner, log: Sequence[Session], known: MemoryCatalogue) -> dict[str, float]:
    """Return the microseconds per session of each part of the input path, the best of five."""
    size, config = learner.learning.batch, learner.config
    part = log[:size]
    raw, labels = records(part, 0), [stream_labels(one) for one in part]
    builder = ExampleBuilder(known)
    examples, _ = builder.from_sessions(part, labels)
    arrays = collate(examples, learner.id_maps, width=config.vector_width, history=config.history)
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode(one) for one in raw],
        "labels": lambda: [stream_labels(one) for one in part],
        "examples": lambda: builder.from_sessions(part, labels),
        "batch": lambda: collate(examples, learner.id_maps, width=config.vector_width, history=config.history),
        "rows": lambda: gather_unique_rows(arrays),
        "sightings": lambda: learner.observe(examples),
    }
    return {name: 1e6 / max(rate(size, run) for _ in range(5)) for name, run in parts.items()}


def write(path: Path, report: Report) -> None:
    """Write `<path>.json` and `<path>.md`."""
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    path.with_suffix(".md").write_text(markdown(report))


def markdown(report: Report) -> str:
    """Return the report as a page."""
    lines = [
        "# Trainer benchmark",
        "",
        f"`make bench-trainer`, commit {report.commit}, torch {report.torch}, {report.hardware['cpu']}, one thread;"
        f" load average at the end {report.hardware['load']}. Sessions per second of CPU time: median of the rounds,"
        " spread in brackets."
        + (" Other work kept the cores busy, which slows both sides." if _is_busy(report) else ""),
        "",
        f"Lists of {_CANDIDATES} candidates with {_BEHAVIOURS} behaviours, {_ITEMS:,} items with vectors of width"
        f" {_WIDTH}, one order in four lists. *Product* is everything from the record to the step: decode, labels,"
        " examples, batch, evaluation before learning, sightings of ids, gradient, optimizer. *Bare* is a torch loop of"
        " the same model on prebuilt tensors: forward pass, loss, gradient, AdamW and the touched rows.",
        "",
        "| model | profile | batch | product | bare | product / bare | input path, share of the product's time |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in report.rows:
        ratio = statistics.median(a / b for a, b in zip(row.product, row.bare, strict=True))
        share = sum(row.input_us.values()) * statistics.median(row.product) / 1e6
        lines.append(
            f"| {row.model} | {row.profile} | {row.batch:,} | {_cell(row.product)} | {_cell(row.bare)} | {ratio:.2f} |"
            f" {100 * share:.0f} % |"
        )
    if any(row.compiled for row in report.rows):
        lines += [
            "",
            "The product with `learning.compile`, in rounds of its own; *start* is the time of the clock until the"
            " graph was compiled and two steps were taken:",
            "",
            "| model | profile | batch | product | compiled | compiled / product | start, s |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for row in report.rows:
            if row.compiled:
                ratio = statistics.median(row.compiled) / statistics.median(row.product)
                lines.append(
                    f"| {row.model} | {row.profile} | {row.batch:,} | {_cell(row.product)} | {_cell(row.compiled)} |"
                    f" {ratio:.2f} | {row.compile_s:.0f} |"
                )
    names = list(report.rows[0].input_us)
    lines += [
        "",
        "The input path, microseconds of CPU time per session, the best of five:",
        "",
        f"| model | profile | batch | {' | '.join(names)} |",
        f"|---|---|---:|{'---:|' * len(names)}",
    ]
    for row in report.rows:
        cells = " | ".join(f"{row.input_us[name]:.0f}" for name in names)
        lines.append(f"| {row.model} | {row.profile} | {row.batch:,} | {cells} |")
    lines += [
        "",
        "*rows* numbers the embedding rows that a batch touches; *sightings* counts its ids. No GPU was measured.",
        "",
    ]
    return "\n".join(lines)


def _is_busy(report: Report) -> bool:
    return float(report.hardware["load"]) > float(report.hardware["cores"])


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="make bench-trainer")
    parser.add_argument("--models", nargs="+", default=["prm", "armmt"])
    parser.add_argument("--profiles", nargs="+", default=["tiny", "full"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 128, 1_024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure learning.compile as well; minutes a row")
    parser.add_argument("--out", default=str(Path(__file__).parents[2] / "docs" / "benchmarks" / "trainer"))
    options = parser.parse_args()
    make_deterministic(1)
    keep_freed_memory()
    known = catalogue(_ITEMS)
    rows = []
    for profile in options.profiles:
        for model in options.models:
            # A step of 1,024 lists at full width takes half a minute.
            for batch in (each for each in options.batches if profile == "tiny" or each < 1_024):
                steps = max(1, (256 if profile == "tiny" else 32) // batch)
                rows.append(
                    measure(
                        model, profile, batch, rounds=options.rounds, steps=steps, known=known, compiles=options.compile
                    )
                )
                print(rows[-1], flush=True)  # noqa: T201 - progress of a program
    write(Path(options.out), Report(commit=commit(), hardware=hardware(), torch=str(torch.__version__), rows=rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
