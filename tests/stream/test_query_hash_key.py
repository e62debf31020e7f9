from pathlib import Path

import pytest

from stream.errors import ConfigError
from stream.query_hash_key import KEY_BYTES, PrivacySettings, query_hash_key


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = query_hash_key(PrivacySettings(), tmp_path)
    assert first == query_hash_key(PrivacySettings(), tmp_path)
    assert len(first) == KEY_BYTES
    assert (tmp_path / "query_hash_key").stat().st_mode & 0o077 == 0


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    def slow(num: int) -> bytes:
        """Let another process make its key while this one draws."""
        query_hash_key(PrivacySettings(), tmp_path, lambda num: b"a" * num)
        return b"b" * num

    assert query_hash_key(PrivacySettings(), tmp_path, slow) == b"a" * KEY_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["query_hash_key"]


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "query_hash_key").touch()
    with pytest.raises(ConfigError, match="query_hash_key: the file is empty"):
        query_hash_key(PrivacySettings(), tmp_path)


def test_the_key_of_the_settings_wins(tmp_path: Path) -> None:
    assert query_hash_key(PrivacySettings(query_hash_key="mine"), tmp_path) == b"mine"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["x", "x" * 31])
def test_a_short_key_of_client_ids_is_refused_and_not_printed(key: str) -> None:
    with pytest.raises(ValueError, match=rf"client_id_key: expected at least 32 characters, got {len(key)}$"):
        PrivacySettings(client_id_key=key)
    assert "x" * 32 not in repr(PrivacySettings(client_id_key="x" * 32))


def test_the_key_is_not_printed() -> None:
    assert "mine" not in repr(PrivacySettings(query_hash_key="mine"))
