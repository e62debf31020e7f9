"""Image encoders with the weights of a package, and RegNets with weights by path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stream.errors import ConfigError
from trainer.vectors.image_encoders import EFFICIENTNET, open_image_encoder
from trainer.vectors.pictures import SIDE, Pixels

CPU = torch.device("cpu")
REGNET = "regnet_y_400mf"


def plain(colour: str, box: tuple[int, int, int, int]) -> Pixels:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste(colour, box)
    return np.asarray(picture)


def test_pictures_of_one_look_are_nearer() -> None:
    encoder = open_image_encoder(EFFICIENTNET, None, CPU)
    first = plain("red", (40, 40, 180, 180))
    rows = encoder.encode([first, plain("red", (50, 44, 184, 190)), plain("black", (0, 100, 224, 110))])
    assert rows.shape == (3, encoder.width) == (3, 1280)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1
    np.testing.assert_allclose(encoder.encode([first])[0], rows[0], atol=1e-4)


@pytest.mark.slow
def test_a_regnet_takes_weights_by_path_in_both_forms(tmp_path: Path) -> None:
    # Its import takes seconds, which a worker without this test need not pay.
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = models.get_model(REGNET, weights=None)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    pictures = [plain("red", (40, 40, 180, 180))]
    ours, same = (open_image_encoder(REGNET, tmp_path / name, CPU) for name in ("w.safetensors", "w.pth"))
    assert ours.width == 440
    assert ours.encode(pictures).tobytes() == same.encode(pictures).tobytes()
    pixels = torch.from_numpy(pictures[0].copy()).permute(2, 0, 1)[None].float() / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        network.eval().fc = torch.nn.Identity()
        expected = network((pixels - mean[:, None, None]) / deviation[:, None, None])[0].numpy()
    np.testing.assert_allclose(ours.encode(pictures)[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_refusals_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="regnet_y_400mf: needs its weights, as --image-weights FILE"):
        open_image_encoder(REGNET, None, CPU)
    with pytest.raises(ConfigError, match="regnet_z: not among regnet_x_16gf"):
        open_image_encoder("regnet_z", tmp_path / "w.pth", CPU)
    with pytest.raises(ConfigError, match="vgg: expected efficientnet-lite0 or a RegNet"):
        open_image_encoder("vgg", None, CPU)
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"w\.safetensors: no weights of this encoder"):
        open_image_encoder(EFFICIENTNET, tmp_path / "w.safetensors", CPU)
    (tmp_path / "w.pth").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"w\.pth: no weights of this encoder"):
        open_image_encoder(EFFICIENTNET, tmp_path / "w.pth", CPU)
