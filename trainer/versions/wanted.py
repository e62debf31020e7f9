"""Names of versions: a lineage and a number, as options of `shelfwise trainer run` take them.

Source: docs/training.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from stream.errors import ConfigError
from stream.schemas.names import check_name
from trainer.configs import ModelConfig
from trainer.configs.smar import SmarConfig
from trainer.versions.registry import Registry, Version

_TEACHER: Final = "--teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The name of a version.

    Attributes:
        option: Option that holds the name, for messages.
        lineage: Its lineage.
        version: Its number, or None for the live version.
    """

    option: str
    lineage: str
    version: int | None

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Return what `LINEAGE` or `LINEAGE:VERSION` names.

        Raises:
            ConfigError: If the lineage is no name, or the version no number above 0.

        >>> Wanted.parse("armmt:12", "--warm-start")
        Wanted(option='--warm-start', lineage='armmt', version=12)
        """
        name, colon, number = text.partition(":")
        check_name(f"{option} lineage", name)
        if colon and not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ConfigError(f"{option} {text[:80]}: version '{number[:80]}': expected a number above 0")
        return cls(option=option, lineage=name, version=int(number) if colon else None)

    def __str__(self) -> str:
        return f"{self.option} {self.lineage}" + ("" if self.version is None else f":{self.version}")

    def find(self, registry: Registry) -> Version:
        """Return the version.

        Raises:
            ConfigError: If it is unknown or gone.
            StoreError: If the database is unreachable or refused.
        """
        if self.version is None:
            live = registry.live(self.lineage)
            if live is None:
                raise ConfigError(f"{self}: lineage {self.lineage} has no live version")
            return live
        found = {version.version: version for version in registry.versions(self.lineage)}
        version = found.get(self.version)
        if version is None:
            known = f"its versions are {min(found)} to {max(found)}" if found else "it has no versions"
            raise ConfigError(f"{self}: lineage {self.lineage} has no version {self.version}; {known}")
        if version.is_gone:
            raise ConfigError(f"{self}: version {self.version} is {version.status}")
        return version


def taught(config: ModelConfig, names: Sequence[str], registry: Registry) -> ModelConfig:
    """Return the configuration of a page ranker with the versions that `--teacher` names, after those that it has.

    Raises:
        ConfigError: If a version is unknown, gone or has no number, is named twice, or the model has no teachers.
        StoreError: If the database is unreachable or refused.
    """
    if not names:
        return config
    if not isinstance(config, SmarConfig):
        raise ConfigError(f"{_TEACHER} {names[0]}: only the model smar has teachers")
    wanted = [Wanted.parse(name, _TEACHER) for name in names]
    for each in wanted:
        if each.version is None:
            raise ConfigError(f"{each}: expected {each.lineage}:VERSION, as the live version is another one tomorrow")
    addresses = (*config.teachers, *(each.find(registry).artifact for each in wanted))
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"{_TEACHER}: one version is named twice")
    return replace(config, teachers=addresses)
