"""A run over a catalogue that is killed after each batch, and started again until it is through."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.trainer.vectors.test_embed import TEXT, catalogue
from trainer.vectors import embed as job
from trainer.vectors import vectors_file
from trainer.vectors.catalogue_file import CatalogueFile

pytestmark = pytest.mark.system
NUM_ITEMS, BATCH = 60, 7


def run(folder: Path, *, is_mortal: bool) -> None:
    """Encode the catalogue beside the folder; a mortal process dies by SIGKILL after its first batch."""

    def die(_name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    job.embed(
        CatalogueFile(folder.parent / "items.jsonl"),
        [TEXT],
        job.Plan(folder=folder, width=8, batch=BATCH, seed=0),
        deliver=lambda found: vectors_file.write(folder.with_suffix(".parquet"), found),
        failpoint=die if is_mortal else lambda _name: None,
    )


def test_a_run_that_is_killed_after_every_batch_ends_with_the_same_file(tmp_path: Path) -> None:
    catalogue(tmp_path / "items.jsonl", range(NUM_ITEMS))
    run(tmp_path / "whole", is_mortal=False)
    ends: list[int | None] = []
    while not ends or ends[-1]:
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(tmp_path / "killed",), kwargs={"is_mortal": True}
        )
        process.start()
        process.join()
        ends.append(process.exitcode)
    assert ends == [-signal.SIGKILL] * -(-NUM_ITEMS // BATCH) + [0]
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
