"""Beyond loopback a service needs tokens of its callers and a key of signatures."""

import pytest

from serving import exposure
from serving.settings import ServingSettings
from stream.errors import ConfigError
from trainer.versions.signature import NO_KEYS, VersionKeys

TOKENS = f"read:{'5' * 64}"
KEYS = VersionKeys((bytes(32),))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_nothing_is_asked_for(host: str) -> None:
    exposure.check(ServingSettings(host=host), NO_KEYS)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "serving.example"])
def test_beyond_loopback_callers_need_tokens(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"serving\.host = {host} is not on loopback: set serving\.tokens"):
        exposure.check(ServingSettings(host=host), KEYS)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "serving.example"])
def test_beyond_loopback_versions_must_be_signed(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"serving\.host = {host} is not on loopback: set signing\.key"):
        exposure.check(ServingSettings(host=host, tokens=TOKENS), NO_KEYS)
    exposure.check(ServingSettings(host=host, tokens=TOKENS), KEYS)
