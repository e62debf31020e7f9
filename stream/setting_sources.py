"""Sources of settings: a TOML file, the environment, flags and the files of secrets, with messages that name the key.

The caller passes the TOML text and the environment; only the files that hold secrets are read here.
"""

import difflib
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from stream.errors import ConfigError

ENV_PREFIX = "SHELFWISE_"


def from_toml(text: str, name: str, known: Mapping[str, str]) -> dict[str, object]:
    """Return the values of a configuration file by dotted key.

    Args:
        text: Text of the file, one table per section.
        name: Name of the file, for messages.
        known: Each name of a setting, former ones included, to its present one.

    Raises:
        ConfigError: If the text is no TOML, or a key is unknown or given under two names.
    """
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    flat: dict[str, object] = {}
    for section, table in parsed.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: '{section}' must be a table like [{section}], got {table!r}")
        flat |= _flat(section, table)
    return checked(flat, known, name)


def _flat(prefix: str, table: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a table and of the tables inside it by dotted key."""
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return found


def from_environment(
    environment: Mapping[str, str], aliases: Mapping[str, str], known: Mapping[str, str]
) -> dict[str, object]:
    """Return the values of variables `SHELFWISE_SECTION__KEY` and of aliases by dotted key.

    Args:
        environment: Variables.
        aliases: Variable to `section.key`, or to an empty string for a variable that is no setting.
        known: Each name of a setting, former ones included, to its present one.

    Raises:
        ConfigError: If a variable with the prefix is unknown, or a key is given under two names.
    """
    flat: dict[str, object] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable in aliases:
            if aliases[variable]:
                flat[aliases[variable]] = value
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if path not in known:
            raise ConfigError(f"environment: {variable} is no setting{nearest(path, known.values())}")
        flat[path] = value
    return checked(flat, known, "environment")


def checked(values: Mapping[str, object], known: Mapping[str, str], source: str) -> dict[str, object]:
    """Return the values by the present names of their keys.

    Raises:
        ConfigError: If a key is unknown or given under two names.
    """
    found: dict[str, object] = {}
    for path, value in values.items():
        if path not in known:
            raise ConfigError(f"{source}: unknown key '{path}'{nearest(path, known.values())}")
        present = known[path]
        if present != path and present in values:
            raise ConfigError(f"{source}: {path} and {present} are two names of one setting: set {present} only")
        found[present] = value
    return found


def nearest(path: str, known: Iterable[str]) -> str:
    """Return the end of a message: the known key that was probably meant, or the sections if none of them is named."""
    section = path.partition(".")[0]
    candidates = sorted(set(known))
    sections = {each.partition(".")[0] for each in candidates}
    of_section = [each for each in candidates if each.startswith(f"{section}.")]
    # Of a known section some key is meant; in all sections, only a similar one.
    close = difflib.get_close_matches(path, of_section, n=1, cutoff=0.6) or difflib.get_close_matches(
        path, candidates, n=1, cutoff=0.7
    )
    if close:
        return f"; the nearest known key is '{close[0]}'"
    if of_section:
        return f"; the keys of '{section}' are {', '.join(each.partition('.')[2] for each in of_section)}"
    return f"; the sections are {', '.join(sorted(sections))}"


def read_secret(path: str, file: str, *, is_private: bool) -> str:
    """Return the content of a secret's file without line breaks at its end.

    Args:
        path: Dotted key that names the file, for messages.
        file: Path of the file.
        is_private: Refuse a file that others than its owner may open.

    Raises:
        ConfigError: If the file cannot be read, is empty, or lets others in.
    """
    try:
        mode = stat.S_IMODE(Path(file).stat().st_mode)
        if is_private and mode & 0o077:
            raise ConfigError(f"{path} = '{file}': mode {mode:04o} lets others in, expected 0600: chmod 600 {file}")
        text = Path(file).read_text().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{path} = '{file}': {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} = '{file}': expected UTF-8 text") from error
    if not text:
        raise ConfigError(f"{path} = '{file}': the file is empty")
    return text
