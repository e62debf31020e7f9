from pathlib import Path

from serving.query_key import PEPPER_BYTES, pepper
from serving.settings import ServingSettings


def test_the_pepper_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = pepper(ServingSettings(), tmp_path)
    assert first == pepper(ServingSettings(), tmp_path)
    assert len(first) == PEPPER_BYTES
    assert (tmp_path / "pepper").stat().st_mode & 0o077 == 0
    assert pepper(ServingSettings(pepper="mine"), tmp_path) == b"mine"
