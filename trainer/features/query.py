"""Tokens of a query text as numbers: what a model may know of the words, without the words.

The numbers are a keyed hash, so whoever reads the log without the key cannot look a word up, and many words share each
number.

Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning; docs/training.md.
"""

import re
import unicodedata
from hashlib import blake2b

from trainer.features.schema import MAX_TOKENS, TOKEN_BUCKETS

_WORD = re.compile(r"\w+")


def query_tokens(text: str, key: bytes) -> list[int]:
    """Return the numbers, from 1, of the first distinct words of a query text; case does not matter.

    >>> query_tokens("Red SHOES", b"k") == query_tokens("red, shoes red", b"k") != query_tokens("red shoes", b"other")
    True
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [_number(word, key) for word in dict.fromkeys(words)][:MAX_TOKENS]


def _number(word: str, key: bytes) -> int:
    # Personalised, so that the number of a word tells nothing about the hash of a query of that one word.
    digest = blake2b(word.encode(), digest_size=8, key=key[:64], person=b"token").digest()
    return 1 + int.from_bytes(digest, "little") % (TOKEN_BUCKETS - 1)
