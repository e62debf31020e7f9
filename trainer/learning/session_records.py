"""Sessions as arrays of a checkpoint: their records end to end.

Source: docs/training.md.
"""

from collections.abc import Iterable

import numpy as np

from stream.errors import ArtifactError, SchemaError
from stream.schemas.session import Session, decode, encode
from trainer.versions.atomic_folder import Tensors


def pack(sessions: Iterable[Session]) -> Tensors:
    """Return the bytes of the records, and where each one ends."""
    records = [encode(session) for session in sessions]
    return {
        "records": np.frombuffer(b"".join(records), np.uint8),
        "ends": np.cumsum([len(record) for record in records], dtype=np.int64),
    }


def unpack(arrays: Tensors) -> list[Session]:
    """Return the sessions that `pack` wrote.

    Raises:
        ArtifactError: If one does not decode.
    """
    raw = arrays["records"].tobytes()
    found: list[Session] = []
    start = 0
    for end in arrays["ends"].tolist():
        try:
            session = decode(raw[start:end])
        except SchemaError as error:
            raise ArtifactError(f"checkpoint: session {len(found)}: {error}") from error
        assert isinstance(session, Session), "only sessions are kept"
        found.append(session)
        start = end
    return found
