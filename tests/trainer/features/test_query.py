"""Tokens of query texts."""

import pytest

from trainer.features import query_tokens
from trainer.features.schema import MAX_TOKENS, TOKEN_BUCKETS


@pytest.mark.parametrize("text", ["red shoes", "  RED,  shoes!", "red shoes red", "ｒｅｄ　ｓｈｏｅｓ"])
def test_case_width_punctuation_and_repetition_do_not_matter(text: str) -> None:
    assert query_tokens(text, b"k") == query_tokens("red shoes", b"k")


def test_words_of_any_script_are_numbered_from_one_within_float16() -> None:
    words = [f"слово{number} 靴{number}" for number in range(2_000)]
    found = [token for text in words for token in query_tokens(text, b"k")]
    assert len(found) == 4_000
    assert min(found) >= 1
    assert max(found) < TOKEN_BUCKETS <= 2_048
    # 4,000 draws from 2,047 numbers leave about 14 % of them out: 1 - exp(-4000 / 2047) = .858.
    assert len(set(found)) / (TOKEN_BUCKETS - 1) == pytest.approx(0.858, abs=0.03)


def test_only_the_first_words_count_and_the_key_decides() -> None:
    text = " ".join(f"w{number}" for number in range(20))
    assert len(query_tokens(text, b"k")) == MAX_TOKENS
    assert query_tokens(text, b"k") != query_tokens(text, b"other")
    assert query_tokens("", b"k") == query_tokens("!?", b"k") == []
