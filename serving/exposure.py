"""The rule for a service that other machines reach: what it must have, or the process does not start.

Source: docs/serving.md, "Beyond loopback".
"""

from serving.settings import ServingSettings
from stream.errors import ConfigError
from stream.loopback import is_loopback
from trainer.versions.signature import VersionKeys


def check(settings: ServingSettings, version_keys: VersionKeys) -> None:
    """Refuse to listen beyond loopback without what such a service must have.

    Args:
        settings: The section `serving`.
        version_keys: Keys of the signatures of versions.

    Raises:
        ConfigError: If something is missing; the message names the setting.
    """
    if is_loopback(settings.host):
        return
    where = f"serving.host = {settings.host} is not on loopback"
    if not settings.tokens:
        raise ConfigError(
            f"{where}: set serving.tokens; `shelfwise serving token ROLE` makes a token and prints its line"
        )
    if not version_keys:
        raise ConfigError(f"{where}: set signing.key, so that only signed versions are loaded")
