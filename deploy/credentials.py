"""Tokens and keys of the ranking service from the settings, with the files that they were read from."""

from pathlib import Path

from deploy.configuration import Context
from serving import exposure
from serving.credentials import Credentials
from serving.settings import ServingSettings
from serving.tokens import parse
from trainer.versions.signature import SigningSettings, VersionKeys


def of(loaded: Context) -> Credentials:
    """Return the credentials of the settings.

    Raises:
        ConfigError: If the service is reached by other machines and lacks tokens or keys.
    """
    serving = loaded.settings.get("serving", ServingSettings)
    keys = VersionKeys.of(loaded.settings.get("signing", SigningSettings))
    exposure.check(serving, keys)
    named = {
        str(setting.value)
        for setting in loaded.settings.resolved
        if (setting.section, setting.key) in _FILES and setting.value
    }
    config = () if loaded.config_file is None else (loaded.config_file,)
    return Credentials(tokens=parse(serving.tokens), keys=keys, files=(*config, *map(Path, sorted(named))))


_FILES = {("serving", "tokens_file"), ("signing", "key_file"), ("signing", "accepted_key_file")}
