"""Variants of models on the command line: `MODEL`, `MODEL:ABLATION`, `MODEL:KEY=VALUE;...` with keys of `[model]`."""

from collections.abc import Mapping, Sequence

from deploy.commands.output import assignments
from stream.errors import ConfigError

HELP = "armmt:no-image, armmt:no-cafu, armmt:no-aux, or MODEL:KEY=VALUE;... with keys of [model]"


def variant(name: str, flag: str, peers: Sequence[str] = ()) -> tuple[str, dict[str, object]]:
    """Return the model of a variant, and the settings by which it differs, by their paths.

    Args:
        name: The variant.
        flag: The option that names it.
        peers: Further names that the option takes, for the message.

    Raises:
        ConfigError: If there is no such model, or it has no such ablation.
    """
    from trainer.configs import ABLATIONS, MODEL_PROFILES

    model, colon, switches = name.partition(":")
    if model not in MODEL_PROFILES:
        raise ConfigError(f"{flag} {name}: '{model}': expected {', '.join([*MODEL_PROFILES, *peers])}")
    if colon and not switches:
        raise ConfigError(f"{flag} {name}: nothing behind the colon: expected {HELP}")
    known = ABLATIONS.get(model, {})
    given: dict[str, object] = {}
    for switch in filter(None, switches.split(";")):
        if switch in known:
            given |= {f"model.{key}": value for key, value in known[switch].items()}
        elif "=" in switch:
            given |= assignments([switch], flag, prefix="model.")
        else:
            raise ConfigError(f"{flag} {name}: '{switch}': expected {', '.join([*known, 'KEY=VALUE'])}")
    return model, given


def overrides(
    model_set: Sequence[str], differing: Mapping[str, tuple[str, dict[str, object]]]
) -> dict[str, dict[str, object]]:
    """Return the settings of each variant by their paths, from keys with or without the name of a model.

    What makes a variant counts more than those keys.

    Args:
        model_set: The keys with their values.
        differing: Variant to its model and the settings by which it differs.

    Raises:
        ConfigError: If none of the models has a key.
    """
    from stream.setting_fields import keys
    from trainer.configs import MODEL_PROFILES

    models = {name: model for name, (model, _) in differing.items()}
    found: dict[str, dict[str, object]] = {name: {} for name in models}
    for key, value in assignments(model_set, "--model-set").items():
        model, _, own = key.partition(".")
        named = [name for name in models if models[name] == model] or list(models)
        path = own if model in models.values() else key
        takers = [
            name
            for name in named
            if models[name] in MODEL_PROFILES and path in keys(type(MODEL_PROFILES[models[name]]["tiny"]))
        ]
        if not takers:
            raise ConfigError(f"--model-set {key}={value}: '{path}' is no setting of {', '.join(named) or 'any model'}")
        for name in takers:
            found[name][f"model.{path}"] = value
    return {name: {**given, **differing[name][1]} for name, given in found.items()}
