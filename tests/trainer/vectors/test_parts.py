from pathlib import Path

import numpy as np

from trainer.vectors.parts import Parts


def test_a_part_is_found_again_and_a_damaged_or_foreign_one_is_not(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert parts.get("k", (2, 3)) is None
    parts.put("k", rows)
    found = parts.get("k", (2, 3))
    assert found is not None
    assert found.tolist() == rows.tolist()
    assert parts.get("k", (3, 3)) is None
    (path,) = (tmp_path / "parts").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert parts.get("k", (2, 3)) is None
