"""Counter-based random numbers: what a key draws does not depend on what was drawn before it.

Two runs with other ranked lists but the same key therefore share their random numbers.
"""

import numpy as np

from stream.schemas.identity import digest


def generator(*key: str | int) -> np.random.Generator:
    """Return the generator of `key`.

    >>> bool(generator(1, "client", 7).integers(1000) == generator(1, "client", 7).integers(1000))
    True
    >>> bool(generator(1, "client", 7).integers(1000) == generator(1, "client", 8).integers(1000))
    False
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(*key), "little")))
