"""Pictures as encoders see them."""

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
