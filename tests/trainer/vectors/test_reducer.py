"""The reducer against the singular value decomposition of the centred rows."""

import numpy as np
import pytest

from stream.errors import ConfigError
from trainer.vectors.reducer import fit


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 12)) @ np.diag(np.arange(12, 0, -1.0)) + 3.0
    found = fit(rows, 4)
    _, _, expected = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found.components @ expected[:4].T), np.eye(4), atol=1e-4)
    assert (np.take_along_axis(found.components, np.abs(found.components).argmax(axis=1)[:, None], axis=1) > 0).all()
    vectors = found(rows)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-3)
    assert fit(rows, 4).digest == found.digest != fit(rows, 3).digest


def test_rows_that_are_too_few_or_too_narrow_are_refused() -> None:
    rows = np.random.default_rng(1).normal(size=(8, 6))
    with pytest.raises(ConfigError, match="--width 7: rows of the encoder have 6 numbers"):
        fit(rows, 7)
    with pytest.raises(ConfigError, match="--width 6: 7 items that differ are needed to fit it, found 4"):
        fit(np.concatenate([rows[:4], rows[:4]]), 6)
