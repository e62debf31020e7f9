"""Pictures as encoders see them."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.vectors.drawn import draw
from trainer.vectors.boxes import Box
from trainer.vectors.catalogue_file import CatalogueRow
from trainer.vectors.encoder import Encoder
from trainer.vectors.pictures import SIDE, Pixels, image
from trainer.vectors.table_file import CatalogueFileError

ENCODER: Encoder[Pixels] = Encoder(
    name="mean", digest="0", width=3, encode=lambda seen: np.stack([each.mean((0, 1)) for each in seen])
)
BOX = Box(place="boxes.csv line 2", x=10, y=0, width=10, height=10)


def row(path: Path | None) -> CatalogueRow:
    return CatalogueRow(place="items.csv line 2", item_id="a", text="x", image=path)


def seen(path: Path, boxes: dict[str, Box] | None = None) -> Pixels:
    modality = image(ENCODER, boxes)
    content = modality.content(row(path))
    assert content is not None
    return modality.read(row(path), content)


def test_a_wide_picture_is_padded_and_transparent_parts_are_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 20))
    picture.save(tmp_path / "a.png")
    pixels = seen(tmp_path / "a.png")
    assert pixels.shape == (SIDE, SIDE, 3)
    middle = SIDE // 2
    assert pixels[5, middle].tolist() == [255, 255, 255]
    assert pixels[middle, 5].tolist() == [255, 255, 255]
    assert pixels[middle, SIDE - 5].tolist() == [255, 0, 0]


def test_a_box_keeps_its_part_and_makes_another_content_and_encoder(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 20), "red")
    picture.paste((0, 0, 255), (10, 0, 20, 10))
    picture.save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png", {"a": BOX}) == (0, 0, 255)).all()
    assert seen(tmp_path / "a.png", {"b": BOX}).mean((0, 1))[0] > 150
    whole, cut = image(ENCODER), image(ENCODER, {"a": BOX})
    assert whole.content(row(tmp_path / "a.png")) != cut.content(row(tmp_path / "a.png"))
    assert (cut.encoder.name, cut.encoder.digest) != (whole.encoder.name, whole.encoder.digest)


def test_items_without_a_picture_have_no_content() -> None:
    assert image(ENCODER).content(row(None)) is None


def test_faults_name_the_item_and_the_picture(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError, match=r"items\.csv line 2, field image: .*No such file"):
        seen(tmp_path / "missing.png")
    path = draw(tmp_path / "a.png", 1)
    with pytest.raises(
        CatalogueFileError, match=r"box inside of the picture of 48 x 48 pixels \(from boxes\.csv line 2"
    ):
        seen(path, {"a": replace(BOX, width=39)})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CatalogueFileError, match=r"items\.csv line 2, field image: expected a picture"):
        seen(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_looks_as_that_of_8(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / f"wide.{suffix}")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(tmp_path / f"narrow.{suffix}")
    wide, narrow = (seen(tmp_path / f"{name}.{suffix}").astype(int) for name in ("wide", "narrow"))
    assert np.abs(wide - narrow).max() <= 1
    assert (wide.min(), wide.max()) == (0, 255)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_picture_whose_white_is_unknown_is_refused(tmp_path: Path, dtype: type[np.generic]) -> None:
    Image.fromarray(np.zeros((8, 8), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(CatalogueFileError, match=r"items\.csv line 2, field image: expected .*16 bits.*a\.tif"):
        seen(tmp_path / "a.tif")


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(CatalogueFileError, match=r"field image: expected a picture \(none in 0 bytes\), got .*a\.png"):
        seen(tmp_path / "a.png")
    # A decoder that does not know the format of the pixels raises an error that is no OSError.
    pictured = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pictured, "DDS")
    flags = slice(80, 84)
    (tmp_path / "a.dds").write_bytes(pictured.getvalue()[: flags.start] + bytes(4) + pictured.getvalue()[flags.stop :])
    with pytest.raises(CatalogueFileError, match=r"field image: expected a picture \(Unknown pixel format"):
        seen(tmp_path / "a.dds")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(CatalogueFileError, match=r"field image: expected a regular file, got .*a\.png"):
        seen(tmp_path / "a.png")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(CatalogueFileError, match=r"field image: expected a file that can be read"):
        seen(Path("a\0.png"))
