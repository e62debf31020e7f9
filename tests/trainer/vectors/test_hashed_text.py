import zlib

import numpy as np

from trainer.vectors import hashed_text


def test_rows_do_not_depend_on_their_neighbours_case_or_spaces() -> None:
    encoder = hashed_text.encoder()
    rows = encoder.encode(["Red  Shoe", "red shoe", "", "blue hat"])
    assert rows.shape == (4, encoder.width)
    assert rows[0].tobytes() == rows[1].tobytes() == encoder.encode(["red shoe"])[0].tobytes()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1], atol=1e-6)


def test_texts_that_share_words_are_nearer() -> None:
    rows = hashed_text.encoder().encode(["red running shoe", "blue running shoes", "porcelain tea pot"])
    assert rows[0] @ rows[1] > 0.4
    assert abs(rows[0] @ rows[2]) < 0.2


def test_buckets_are_those_of_the_published_formula() -> None:
    # Python's integers; another formula needs another description in the digest, because stored spaces would not fit.
    grams = [" ab", "abc", "bc ", " abc", "abc ", " abc "]
    products = [zlib.crc32(gram.encode()) * 11_400_714_819_323_198_485 % 2**64 for gram in grams]
    expected = np.zeros(512)
    for product in products:
        expected[product >> 55] += 1 if product >> 54 & 1 else -1
    row = hashed_text.encoder().encode(["abc"])[0]
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
