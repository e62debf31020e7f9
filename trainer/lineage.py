"""The identity of a lineage, and the settings that may change while it lives.

Source: docs/training.md, "Settings".
"""

import logging
from dataclasses import dataclass

from stream.errors import ArtifactError, ConfigError, SchemaError
from stream.setting_fields import values_by_key
from trainer.configs import LATER, LATER_LEARNING, LearningSettings, ModelConfig
from trainer.features import schema_of
from trainer.versions.checkpoint import Adoption, State

_VOCABULARY = "model.vocabulary."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The identity of a model under training.

    Attributes:
        name: Name of the lineage.
        model: Name of the model.
        profile: Profile that the settings started from.
        config: Settings of the model, fixed for the life of the lineage but for id tables that grow.
        learning: Settings of learning; a change of these, or a larger id table, is refused, or adopted and recorded.
        code_version: Version of Shelfwise.
    """

    name: str
    model: str
    profile: str
    config: ModelConfig
    learning: LearningSettings
    code_version: str

    def settings(self) -> dict[str, object]:
        """Return the settings of the model and of learning, by dotted key."""
        return values_by_key("model", self.config) | values_by_key("learning", self.learning)


def adoptions(lineage: Lineage, state: State, *, adopt: bool) -> tuple[Adoption, ...]:
    """Return the settings that differ from the checkpoint's, if they may be adopted.

    Raises:
        ArtifactError: If the feature schema of the checkpoint is unknown.
        ConfigError: If a setting of the model differs, or one of learning does and `adopt` is False.
    """
    wanted, missing = lineage.settings(), object()
    try:
        number = schema_of(state.feature_schema).number
    except SchemaError as error:
        raise ArtifactError(f"checkpoint of lineage {state.lineage}: {error}") from error
    # A checkpoint from before a setting was trained as that setting's value among the later ones says.
    later: dict[str, object] = {f"model.{name}": value for name, value in LATER.items()}
    later |= {f"learning.{name}": value for name, value in LATER_LEARNING.items()}
    later["model.feature_schema"] = number
    settings = {key: value for key, value in later.items() if key in wanted} | state.settings
    changed = [key for key in {**settings, **wanted} if settings.get(key, missing) != wanted.get(key)]
    if not changed:
        return ()
    text = ", ".join(f"{key} was {settings.get(key)!r} and is {wanted.get(key)!r}" for key in changed)
    for key in changed:
        old, new = settings.get(key), wanted.get(key)
        if not key.startswith(_VOCABULARY) or not isinstance(old, int) or not isinstance(new, int):
            continue
        if new < old:
            raise ConfigError(f"lineage {lineage.name}: {key} was {old} and is {new}: id tables only grow")
    if any(not key.startswith(("learning.", _VOCABULARY)) for key in changed):
        raise ConfigError(f"lineage {lineage.name}: {text}; another model needs a lineage of its own")
    if not adopt:
        raise ConfigError(f"lineage {lineage.name}: {text}; --adopt takes and records the new values")
    _log.warning("lineage %s adopts: %s", lineage.name, text)
    return tuple(
        Adoption(
            setting=key,
            old=settings.get(key),
            new=wanted.get(key),
            batch_number=state.learning.batch_number,
        )
        for key in changed
    )
