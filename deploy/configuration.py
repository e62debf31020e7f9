"""Settings sections of the program, and the context that every command starts from.

The only module that reads the environment; lower packages receive what they need as arguments.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stream import settings
from stream.errors import ConfigError

# Variables that carry the prefix without being `SECTION__KEY`; an empty target is no setting.
ALIASES: Mapping[str, str] = {
    "SHELFWISE_BROKER": "kafka.broker",
    "SHELFWISE_DATABASE": "database.url",
    "SHELFWISE_HOME": "",
    "SHELFWISE_CONFIG": "",
    "SHELFWISE_DATA": "",
}
# Names of earlier releases, which configuration files still use.
_MOVED_TO_LEARNING = (
    "rows_lr",
    "accumulator",
    "accumulator_decay_per_day",
    "clip_norm",
    "checkpoint_s",
    "catalogue_delay_s",
    "seen_s",
    "converted_s",
    "min_sightings",
)
RENAMED: Mapping[str, str] = {
    "kafka.port": "local_kafka.port",
    "kafka.heap_mb": "local_kafka.heap_mb",
    "kafka.jars": "local_kafka.jars",
    "trainer.batch_sessions": "learning.batch",
    "trainer.dense_lr": "learning.lr",
    "trainer.dense_optimizer": "learning.optimizer",
    "trainer.vector_width": "model.vector_width",
} | {f"trainer.{key}": f"learning.{key}" for key in _MOVED_TO_LEARNING}
DEFAULT_FILE = "shelfwise.toml"


def sections() -> Mapping[str, settings.Section]:
    """Return every section with the record that declares its settings.

    The imports stand inside, because some records live in modules that import Kafka or SQLAlchemy, and `--help` needs
    neither.
    """
    from abtest.settings import AbtestSettings
    from deploy.grafana.settings import GrafanaSettings
    from deploy.kafka.settings import LocalKafkaSettings
    from deploy.simulation.marketplace.settings import MarketplaceSettings
    from serving.settings import ServingSettings
    from stream.agents.settings import WorkerSettings
    from stream.broker.settings import KafkaSettings
    from stream.db_settings import DatabaseSettings
    from stream.join.settings import JoinSettings
    from stream.logs import LoggingSettings
    from stream.query_hash_key import PrivacySettings
    from trainer.configs import LEARNING_PROFILES, MODEL_PROFILES
    from trainer.rollout.settings import RolloutSettings
    from trainer.settings import TrainerSettings
    from trainer.versions.signature import SigningSettings

    return {
        "logging": LoggingSettings,
        "kafka": KafkaSettings,
        "local_kafka": LocalKafkaSettings,
        "database": DatabaseSettings,
        "privacy": PrivacySettings,
        "signing": SigningSettings,
        "join": JoinSettings,
        "worker": WorkerSettings,
        "trainer": TrainerSettings,
        "model": settings.ProfiledSection(variants=MODEL_PROFILES, choose=_model_and_profile),
        "learning": settings.ProfiledSection(
            variants={"learning": LEARNING_PROFILES},
            choose=lambda records: ("learning", _model_and_profile(records)[1]),
        ),
        "rollout": RolloutSettings,
        "serving": ServingSettings,
        "abtest": AbtestSettings,
        "marketplace": MarketplaceSettings,
        "grafana": GrafanaSettings,
    }


def _model_and_profile(records: Mapping[str, object]) -> tuple[str, str]:
    from trainer.settings import TrainerSettings

    trainer = records["trainer"]
    assert isinstance(trainer, TrainerSettings), "the section stands before those that it chooses"
    return trainer.model, trainer.profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Settings and folders of one command.

    Attributes:
        home: Folder of everything Shelfwise keeps on disk (`.shelfwise` unless SHELFWISE_HOME names another).
        settings: The resolved settings.
        config_file: The file that was read, if any.
    """

    home: Path
    settings: settings.Settings
    config_file: Path | None

    def database_url(self) -> str:
        """Return the configured URL, or SQLite under the home folder."""
        from stream.db_settings import DatabaseSettings

        configured = self.settings.get("database", DatabaseSettings).url
        return configured or f"sqlite:///{self.home / 'shelfwise.db'}"


def environment() -> dict[str, str]:
    """Return the environment, for child processes."""
    return dict(os.environ)


def load(config: Path | None = None, overrides: Mapping[str, object] | None = None) -> Context:
    """Resolve the settings of one command.

    Args:
        config: The file named on the command line; else SHELFWISE_CONFIG, else `shelfwise.toml` where it exists.
        overrides: `section.key` to value from flags; a value of None means that the flag was not given.

    Raises:
        ConfigError: If a file is missing or a key or value is refused.
    """
    variables = environment()
    named = config or (Path(variables["SHELFWISE_CONFIG"]) if variables.get("SHELFWISE_CONFIG") else None)
    if named is not None and not named.is_file():
        raise ConfigError(f"configuration file '{named}' does not exist")
    file = named or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None)
    resolved = settings.load(
        sections(),
        toml=_text_of(file) if file else "",
        toml_name=str(file),
        environment=variables,
        aliases=ALIASES,
        flags={key: value for key, value in (overrides or {}).items() if value is not None},
        renamed=RENAMED,
    )
    return Context(home=Path(variables.get("SHELFWISE_HOME", ".shelfwise")), settings=resolved, config_file=file)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration file '{file}': byte {error.start} is no UTF-8") from error
