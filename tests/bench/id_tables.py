"""Measurements of one large id table: boundaries, look-ups, checkpoints, versions, and memory.

`python -m tests.bench.id_tables --rows 1000000` prints one column of docs/benchmarks/id-tables.md.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch

from tests.serving.world import manifest
from tests.trainer.lists import WIDTH, batch_of, catalogue, hashes, labelled
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.features.id_maps import FIRST_SLOT
from trainer.feed.batches import Position
from trainer.learning.determinism import environment
from trainer.learning.learner import Learner
from trainer.learning.prequential import Prequential
from trainer.models import decode_config, encode_config
from trainer.versions import artifact, checkpoint, writing
from trainer.versions.checkpoint import Published, State

_CHUNK = 100_000
_CHANGED = 10_000
_NEWCOMERS = 1_000
_Result = TypeVar("_Result")


def _timed(name: str, what: Callable[[], _Result], unit: float = 1.0) -> _Result:
    start, cpu = time.perf_counter(), time.process_time()
    result = what()
    elapsed, used = time.perf_counter() - start, time.process_time() - cpu
    sys.stdout.write(f"{name}: {elapsed * 1e3 / unit:.3g} ms, of CPU {used * 1e3 / unit:.3g} ms\n")
    sys.stdout.flush()
    return result


def _size(path: Path) -> float:
    return sum(file.stat().st_size for file in path.iterdir()) / 1e6


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _state(own: Learner, boundary_ts: int) -> State:
    return State(
        lineage="bench",
        term=1,
        model=own.model,
        feature_schema="",
        settings={},
        position=Position(cursors={}, boundary_ts=boundary_ts),
        boundary_number=boundary_ts // 60_000,
        published=Published(),
        learning=own.state(Prequential()),
        image_space=None,
        text_space=None,
        environment=environment(),
    )


def _check_equal(version: artifact.LoadedVersion, own: Learner) -> None:
    """Compare rows and ids with those of the learner, in parts that need little memory."""
    for start in range(0, len(own.params["rows.item"]), _CHUNK):
        part = slice(start, start + _CHUNK)
        assert torch.equal(version.params["rows.item"][part], own.params["rows.item"][part].half().float())
    ids = version.id_maps.item.to_arrays(counts=False)
    for name, array in own.id_maps.item.to_arrays(counts=False).items():
        np.testing.assert_array_equal(ids[name], array)


def _measure_loads(folder: Path, address: str, delta: str, own: Learner) -> None:
    held = [_timed("load of the version", lambda: artifact.load(folder, address))]
    _check_equal(_timed("load of the delta, base in memory", lambda: artifact.load(folder, delta, held)), own)
    held.clear()
    _check_equal(_timed("load of the delta, base from disk", lambda: artifact.load(folder, delta)), own)


def measure(rows: int, folder: Path) -> None:
    """Print the measurements of a table of items with so many rows of width 32."""
    values = encode_config(MODEL_PROFILES["mlp"]["tiny"]) | {"d": 32, "vector_width": WIDTH}
    values["vocabulary"] = {"item": rows, "shop": 1_000, "brand": 1_000, "category": 1_000}
    config = decode_config("mlp", values)
    before = _rss_mb()
    own = _timed("learner", lambda: Learner("mlp", config, LearningSettings(), device=torch.device("cpu")))
    sys.stdout.write(f"memory of the learner: {_rss_mb() - before:.0f} MB\n")
    ids = own.id_maps.item
    num = rows - FIRST_SLOT
    for _ in range(2):
        for start in range(0, num, _CHUNK):
            ids.observe(hashes(f"item-{number}" for number in range(start, min(start + _CHUNK, num))))
    sys.stdout.write(f"waiting ids: {ids.nbytes / num:.1f} bytes an id, with the empty map\n")
    _timed(f"boundary that admits {num} ids", lambda: own.at_boundary(60_000, None))
    map_bytes = ids._index.nbytes + ids._counts.nbytes + ids._seen_s.nbytes
    sys.stdout.write(f"map: {map_bytes / num:.1f} bytes an id\n")
    _timed("boundary without newcomers", lambda: own.at_boundary(120_000, 60_000))
    rng = np.random.default_rng(0)
    keys = [f"item-{number}" for number in rng.integers(0, num, _CHANGED)]
    _timed(f"first look-up of {_CHANGED} ids, each", lambda: ids.lookup(hashes(keys)), _CHANGED)
    _timed(f"next look-up of {_CHANGED} ids, each", lambda: ids.lookup(hashes(keys)), _CHANGED)
    ids.observe(hashes(f"new-{number}" for number in range(_NEWCOMERS) for _ in range(4)))
    _timed(f"boundary of a full table with {_NEWCOMERS} newcomers", lambda: own.at_boundary(180_000, 120_000))
    assert (
        int((ids.lookup(hashes([f"new-{number}" for number in range(_NEWCOMERS)])) >= FIRST_SLOT).sum()) == _NEWCOMERS
    )

    def save(boundary_ts: int, base: checkpoint.Base | None) -> checkpoint.Base:
        since_s = None if base is None else (base.boundary_ts or 0) // 1000
        return checkpoint.save(folder, _state(own, boundary_ts), own.to_files(since_s), base=base)

    base = _timed("full checkpoint", lambda: save(180_000, None))
    sys.stdout.write(f"full checkpoint: {_size(folder / base.name):.1f} MB\n")
    slots = np.unique(np.concatenate([[0], ids.lookup(hashes(keys))]))

    def change_rows() -> None:
        with torch.no_grad():
            own.weights._row_optimizer.step("item", slots, torch.ones(len(slots), 32))

    change_rows()
    own.at_boundary(240_000, 180_000)
    _timed(f"checkpoint with {len(slots)} changed rows", lambda: save(240_000, base))
    newest = max(path for path in folder.iterdir() if path.name[:12].isdigit())
    sys.stdout.write(f"that checkpoint: {_size(newest):.1f} MB\n")
    found = _timed("load of both", lambda: checkpoint.load(newest))
    np.testing.assert_array_equal(found.files["rows"]["item.rows"], own.params["rows.item"].numpy())
    del found
    golden = batch_of([labelled(seed, catalogue()) for seed in range(4)])
    head = manifest("bench", 1, "mlp", config, own.id_maps)
    address = _timed(
        "version, float16 rows",
        lambda: writing.publish(folder, head, own.params, own.id_maps, golden, rows_dtype=torch.float16),
    )
    sys.stdout.write(f"version: {_size(folder / address):.1f} MB\n")
    change_rows()
    changed = _timed("changed rows of the delta", lambda: own.changed_since(240_000))
    next_head = msgspec.structs.replace(head, version=2, parent=address, base=address)
    delta = _timed(
        f"delta with {sum(map(len, changed.values()))} changed rows",
        lambda: writing.publish(
            folder, next_head, own.params, own.id_maps, golden, changed=changed, rows_dtype=torch.float16
        ),
    )
    sys.stdout.write(f"delta: {_size(folder / delta):.1f} MB\n")
    _measure_loads(folder, address, delta, own)
    sys.stdout.write(f"memory at the end: {_rss_mb():.0f} MB\n")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    sys.stdout.write(f"largest memory: {peak_mb:.0f} MB\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        measure(parser.parse_args().rows, Path(temporary))
