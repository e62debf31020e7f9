"""Pictures of items: read, cut to where the item stands, and brought to the size that image encoders take.

A picture is padded to a square with white rather than cut, since what is for sale may reach the edge. Transparent parts
become white.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import ConfigError
from trainer.extras import INSTALL
from trainer.vectors.boxes import Box
from trainer.vectors.catalogue_file import CatalogueRow
from trainer.vectors.detector import Detector
from trainer.vectors.embed import Modality
from trainer.vectors.encoder import Encoder, digest_of

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE: Final = 224
PREPROCESSING: Final = f"RGB on white, padded to a square with white, {SIDE} pixels, bicubic"
_WHITE: Final = (255, 255, 255)
# Whole numbers of 32 bits, and fractions: the file does not say which value is white.
_WITHOUT_WHITE: Final = ("I", "F")

Pixels = NDArray[np.uint8]
"""A picture, (SIDE, SIDE, 3)."""


def image(
    encoder: Encoder[Pixels], boxes: Mapping[str, Box] | None = None, detector: Detector | None = None
) -> Modality[Pixels]:
    """Return the modality of pictures.

    Args:
        encoder: Encoder of pictures.
        boxes: Part of the picture to keep, by item. With boxes, or a detector, the vector space is another one.
        detector: Finds the part of pictures whose items have no box; where it finds none, the whole is kept.

    Raises:
        ConfigError: If Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"pictures need the package pillow; {INSTALL} installs it") from error
    if boxes is not None:
        encoder = replace(encoder, name=f"{encoder.name}-boxes", digest=digest_of(f"{encoder.digest}, cut to boxes"))
    if detector is not None:
        digest = digest_of(f"{encoder.digest}, cut by the detector {detector.digest}")
        encoder = replace(encoder, name=f"{encoder.name}-detector", digest=digest)
    known = boxes or {}

    def content(row: CatalogueRow) -> bytes | None:
        if row.image is None:
            return None
        try:
            # A pipe or a device may have no end.
            if row.image.exists() and not (row.image.is_file() or row.image.is_dir()):
                raise row.fault("image", "a regular file", str(row.image))
            raw = row.image.read_bytes()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise row.fault("image", f"a file that can be read ({why})", str(row.image)) from error
        box = known.get(row.item_id)
        return (b"" if box is None else str(box.corners).encode()) + b"\0" + raw

    def read(row: CatalogueRow, found: bytes) -> Pixels:
        return _pixels(row, found.partition(b"\0")[2], known.get(row.item_id), detector)

    return Modality(name="image", encoder=encoder, content=content, read=read)


def _pixels(row: CatalogueRow, raw: bytes, box: Box | None, detector: Detector | None) -> Pixels:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw)) as opened:
            picture = ImageOps.exif_transpose(opened)
            mode = picture.mode
            if mode not in _WITHOUT_WHITE:
                picture = _on_white(picture)
    except UnidentifiedImageError as error:
        raise row.fault("image", f"a picture (none in {len(raw)} bytes)", str(row.image)) from error
    except Exception as error:
        # Decoders of damaged pictures raise errors of many kinds.
        raise row.fault("image", f"a picture ({error})", str(row.image)) from error
    if mode in _WITHOUT_WHITE:
        raise row.fault("image", f"a picture of at most 16 bits a channel (Pillow's mode {mode})", str(row.image))
    if box is None and detector is not None:
        try:
            box = detector.find(picture)
        except ConfigError as error:
            raise ConfigError(f"{error} ({row.place}, field image: {row.image})") from error
    if box is not None:
        if box.x + box.width > picture.width or box.y + box.height > picture.height:
            expected = f"a box inside of the picture of {picture.width} x {picture.height} pixels (from {box.place})"
            raise row.fault("image", expected, box.corners)
        picture = picture.crop(box.corners)
    padded = ImageOps.pad(picture, (SIDE, SIDE), Image.Resampling.BICUBIC, color=_WHITE)
    return np.asarray(padded, np.uint8)


def _on_white(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode.startswith("I;16"):
        # Pillow would cut grey values at 255, which leaves white.
        grey = np.asarray(picture).astype(np.uint32) * 255 // 65_535
        picture = Image.fromarray(grey.astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    solid = picture.convert("RGBA")
    ground = Image.new("RGBA", solid.size, (*_WHITE, 255))
    return Image.alpha_composite(ground, solid).convert("RGB")
