"""Runs over a catalogue file: crashes, later items, changed encoders and refused rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream.errors import ConfigError
from stream.failpoints import Failpoint, no_failpoint
from stream.files import FolderLock
from trainer.vectors import embed as job
from trainer.vectors import hashed_text
from trainer.vectors.catalogue_file import CatalogueFile
from trainer.vectors.embed import Embedded, Plan, Vectors
from trainer.vectors.encoder import Encoder
from trainer.vectors.table_file import CatalogueFileError

WORDS = ("red", "blue", "shoe", "hat", "pot", "lamp", "oak", "steel")
TEXT = job.text(hashed_text.encoder())


class Crash(BaseException):
    """Stands for kill -9: no `except Exception` catches it."""


def catalogue(path: Path, numbers: range) -> CatalogueFile:
    rng = np.random.default_rng(5)
    titles = [" ".join(rng.choice(WORDS, 4)) + f" {number}" for number in range(max(numbers) + 1)]
    path.write_text("".join(json.dumps({"item_id": f"i{n}", "title": titles[n]}) + "\n" for n in numbers))
    return CatalogueFile(path)


def run(
    folder: Path, file: CatalogueFile, modality: job.Modality[str] = TEXT, failpoint: Failpoint = no_failpoint
) -> tuple[Embedded, Vectors]:
    plan = Plan(folder=folder, width=8, batch=7, seed=0)
    found = job.embed(file, [modality], plan, deliver=lambda _: None, failpoint=failpoint)
    return found, found.vectors["text"]


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_vectors(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(40))
    _, whole = run(tmp_path / "whole", file)
    written = 0

    def crash_after_three(_name: str) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise Crash

    with pytest.raises(Crash):
        run(tmp_path / "killed", file, failpoint=crash_after_three)
    _, resumed = run(tmp_path / "killed", file)
    assert (whole.num_encoded, resumed.num_encoded) == (40, 40 - 3 * 7)
    assert resumed.values.tobytes() == whole.values.tobytes()
    assert resumed.space is not None
    assert whole.space is not None
    assert resumed.space.definition == whole.space.definition
    assert not (tmp_path / "killed" / "parts").exists()


def test_parts_stay_until_the_vectors_are_delivered(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(20))

    def fail(_found: Embedded) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        job.embed(file, [TEXT], Plan(folder=tmp_path / "s", width=8, batch=7, seed=0), deliver=fail)
    assert run(tmp_path / "s", file)[1].num_encoded == 0


def test_later_items_land_in_the_same_space(tmp_path: Path) -> None:
    found, first = run(tmp_path / "s", catalogue(tmp_path / "items.jsonl", range(40)))
    later, second = run(tmp_path / "s", catalogue(tmp_path / "later.jsonl", range(38, 45)))
    assert second.space is not None
    assert first.space is not None
    assert second.space.definition.name == first.space.definition.name
    assert later.item_ids[:2] == found.item_ids[38:]
    np.testing.assert_allclose(second.values[:2], first.values[38:], atol=1e-3)


def test_another_encoder_is_refused_before_it_encodes(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(40))
    run(tmp_path / "s", file)
    other = replace(TEXT, encoder=replace(TEXT.encoder, digest="0" * 64, encode=lambda _: pytest.fail("encoded")))
    with pytest.raises(ConfigError, match="another encoder makes another vector space"):
        run(tmp_path / "s", file, other)


def test_items_without_the_modality_have_no_vector(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(40))
    odd = replace(TEXT, content=lambda row: row.text.encode() if int(row.item_id[1:]) % 2 else None)
    _, vectors = run(tmp_path / "s", file, odd)
    assert vectors.present.tolist() == [bool(number % 2) for number in range(40)]
    assert not vectors.values[~vectors.present].any()
    none = replace(TEXT, content=lambda _row: None)
    assert run(tmp_path / "none", file, none)[1].space is None


def test_numbers_that_are_not_finite_name_the_item(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(9))
    nan: Encoder[str] = Encoder(
        name="broken", digest="0", width=8, encode=lambda texts: np.full((len(texts), 8), np.nan, np.float32)
    )
    with pytest.raises(CatalogueFileError, match=r"items\.jsonl line 1, field text: expected what broken gives finite"):
        run(tmp_path / "s", file, job.text(nan))


def test_an_encoder_with_rows_for_other_items_is_refused(tmp_path: Path) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(9))
    first: Encoder[str] = Encoder(name="first", digest="0", width=8, encode=lambda _: np.ones((1, 8), np.float32))
    with pytest.raises(ConfigError, match=r"first: no encoder: expected 7 rows of 8 numbers, got \(1, 8\)"):
        run(tmp_path / "s", file, job.text(first))


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (range(1, 41), r"items\.jsonl line 1, field item_id: expected 'i0', as before the file changed.*got 'i1'"),
        (range(41), r"items\.jsonl line 41, field item_id: expected no item, as before the file changed.*got 'i40'"),
        (range(39), r"items\.jsonl: expected 40 items, as before the file changed during the run, got 39"),
    ],
)
def test_a_file_that_changes_during_the_run_gives_no_item_the_vector_of_another(
    tmp_path: Path, later: range, message: str
) -> None:
    file = catalogue(tmp_path / "items.jsonl", range(40))
    plan = Plan(folder=tmp_path / "s", width=8, batch=7, seed=0)

    def replace_it(name: str, done: int, num: int) -> None:
        if (name, done) == ("text", num):
            catalogue(tmp_path / "items.jsonl", later)

    again = replace(TEXT, name="image")
    with pytest.raises(CatalogueFileError, match=message):
        job.embed(file, [TEXT, again], plan, deliver=lambda _: pytest.fail("delivered"), on_progress=replace_it)


def test_an_empty_file_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("\n")
    with pytest.raises(CatalogueFileError, match="no items"):
        run(tmp_path / "s", CatalogueFile(tmp_path / "items.jsonl"))
    file = catalogue(tmp_path / "items.jsonl", range(9))
    with FolderLock(tmp_path / "s"), pytest.raises(ConfigError, match="another run uses this folder"):
        run(tmp_path / "s", file)


def test_a_large_catalogue_is_fitted_from_a_seeded_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MAX_FITTED", 20)
    file = catalogue(tmp_path / "items.jsonl", range(40))
    spaces = [run(tmp_path / name, file)[1].space for name in ("a", "b")]
    names = {each.definition.name for each in spaces if each is not None}
    assert len(names) == 1
    monkeypatch.setattr(job, "MAX_FITTED", 40)
    whole = run(tmp_path / "c", file)[1].space
    assert whole is not None
    assert whole.definition.name not in names
