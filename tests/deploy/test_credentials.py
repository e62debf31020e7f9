"""Credentials of the settings, and the files in which they can change."""

from pathlib import Path

import pytest

from deploy import credentials
from deploy.configuration import load
from serving.tokens import Role, make
from stream.errors import ConfigError

LINE = str(make(Role.READ, bytes)[1])
KEY = "0a" * 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHELFWISE_CONFIG", raising=False)
    return tmp_path


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_credentials_come_with_the_configuration_file_and_those_that_it_names(folder: Path) -> None:
    tokens, key = private(folder / "tokens", LINE), private(folder / "key", KEY)
    config = folder / "shelfwise.toml"
    config.write_text(f'[serving]\ntokens_file = "{tokens}"\n[signing]\nkey_file = "{key}"\n')
    found = credentials.of(load())
    assert [str(token) for token in found.tokens] == [LINE]
    assert found.keys.keys == (bytes.fromhex(KEY),)
    assert [path.resolve() for path in found.files] == [config, key, tokens]


def test_without_files_there_is_nothing_to_watch(folder: Path) -> None:
    found = credentials.of(load(overrides={"serving.tokens": LINE}))
    assert (len(found.tokens), found.files) == (1, ())


def test_a_service_beyond_loopback_keeps_its_tokens(folder: Path) -> None:
    """The rule of the start holds for changes too: tokens cannot be taken away from a service that others reach."""
    with pytest.raises(ConfigError, match=r"set serving\.tokens"):
        credentials.of(load(overrides={"serving.host": "0.0.0.0"}))
