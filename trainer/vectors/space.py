"""Vector spaces: one file per modality that names the encoder, holds the reducer, and keeps later items comparable.

Two vectors can be compared only if the same encoder, crop and reducer made them, so these together name the space.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stream.errors import ArtifactError, ConfigError
from stream.files import replace_file
from trainer.vectors.encoder import Encoder, Seen
from trainer.vectors.reducer import Reducer

_NAME_DIGITS = 32


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The identity of a vector space.

    Attributes:
        encoder: Name of the encoder.
        weights: Digest of the encoder.
        reducer: Digest of the reducer.
    """

    encoder: str
    weights: str
    reducer: str

    @property
    def name(self) -> str:
        """The name that items, versions and checkpoints carry: the encoder's, and the start of the sha256 of all."""
        content = msgspec.json.encode(self, order="sorted")
        return f"{self.encoder}:{hashlib.sha256(content).hexdigest()[:_NAME_DIGITS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpace:
    """A vector space with the reducer that takes an encoder's rows into it."""

    definition: Definition
    reducer: Reducer


def of(encoder: Encoder[Seen], reducer: Reducer) -> VectorSpace:
    """Return the space of an encoder and a reducer."""
    definition = Definition(encoder=encoder.name, weights=encoder.digest, reducer=reducer.digest)
    return VectorSpace(definition=definition, reducer=reducer)


def write(path: Path, space: VectorSpace) -> None:
    """Write a space to its file, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors = {"mean": space.reducer.mean, "components": space.reducer.components}
    definition = msgspec.json.encode(space.definition).decode()
    replace_file(path, save_tensors(tensors, {"definition": definition}))


def read(path: Path) -> VectorSpace | None:
    """Return the space of a file, None if there is no file.

    Raises:
        ArtifactError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="np") as file:
            described = (file.metadata() or {})["definition"]
        definition = msgspec.json.decode(described, type=Definition)
        reducer = Reducer(**load_tensors(path.read_bytes()))
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: no vector space: {error}") from error
    if reducer.digest != definition.reducer:
        raise ArtifactError(f"{path}: damaged: the reducer does not have the digest {definition.reducer}")
    return VectorSpace(definition=definition, reducer=reducer)


def check(path: Path, space: VectorSpace, encoder: Encoder[Seen], width: int) -> None:
    """Refuse an encoder or a width that the space of a file does not have.

    Raises:
        ConfigError: If it is another one; the message names both.
    """
    own = space.definition
    if (own.encoder, own.weights) != (encoder.name, encoder.digest):
        raise ConfigError(
            f"{path} holds the vector space {own.name} of the encoder {own.encoder} (digest {own.weights[:12]}), and "
            f"the encoder is {encoder.name} (digest {encoder.digest[:12]}): another encoder makes another vector "
            "space. Name a folder of its own by --space, and train a new lineage on it"
        )
    if len(space.reducer.components) != width:
        raise ConfigError(
            f"--width {width}: the vector space {own.name} in {path} has vectors of {len(space.reducer.components)} "
            "numbers; name a folder of its own by --space for another width"
        )
