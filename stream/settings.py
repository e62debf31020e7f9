"""Load settings records from defaults, one TOML file, the environment and flags; later wins.

Records are declared next to their owners as frozen dataclasses whose fields have defaults; this module only fills
them. It reads neither the environment nor the disk by itself: the caller passes both in.
"""

import difflib
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec

from stream.errors import ConfigError

ENV_PREFIX = "SHELFWISE_"
Record = typing.TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One resolved value and where it came from: `default`, `file`, `environment` or `flag`."""

    section: str
    key: str
    value: object
    origin: str

    @property
    def shown(self) -> str:
        """Return the value for people; secrets and passwords in URLs are masked."""
        text = str(self.value)
        if text and any(word in self.key for word in ("token", "secret", "pepper", "password")):
            return "********"
        return _mask_password(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sections of one run, and the origin of each value."""

    records: Mapping[str, object]
    resolved: tuple[Setting, ...]

    def get(self, section: str, kind: type[Record]) -> Record:
        """Return the record of `section`; asking for a wrong kind is a programming error."""
        record = self.records[section]
        assert isinstance(record, kind), f"section {section} holds {type(record).__name__}, not {kind.__name__}"
        return record


def load(
    sections: Mapping[str, type],
    *,
    toml: str = "",
    toml_name: str = "configuration file",
    environment: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Resolve every field of every section.

    Args:
        sections: Section name to the dataclass that declares its fields.
        toml: Text of the configuration file, one table per section.
        toml_name: Name of that file, for messages.
        environment: Variables; `SHELFWISE_SECTION__KEY` sets a field, others with the prefix are errors unless aliased.
        aliases: Variable name to `section.key`, or to an empty string for variables that are not settings.
        flags: `section.key` to value, as given on the command line.

    Raises:
        ConfigError: On an unknown key (with the nearest known one), a wrong type or a refused value.
    """
    known = {f"{name}.{field.name}" for name, kind in sections.items() for field in fields(kind)}
    layers: list[tuple[str, dict[str, object]]] = [
        ("file", _from_toml(toml, toml_name, known)),
        ("environment", _from_environment(environment or {}, aliases or {}, known)),
        ("flag", _checked(flags or {}, known, "flag")),
    ]
    records: dict[str, object] = {}
    resolved: list[Setting] = []
    for section, kind in sections.items():
        hints = typing.get_type_hints(kind)
        chosen: dict[str, object] = {}
        origins: dict[str, str] = {}
        for origin, values in layers:
            for field in fields(kind):
                path = f"{section}.{field.name}"
                if path in values:
                    chosen[field.name] = _convert(values[path], hints[field.name], path, origin)
                    origins[field.name] = origin
        try:
            record = kind(**chosen)
        except ValueError as error:
            raise ConfigError(f"[{section}] {error}") from error
        records[section] = record
        resolved += [
            Setting(section=section, key=f.name, value=getattr(record, f.name), origin=origins.get(f.name, "default"))
            for f in fields(kind)
        ]
    return Settings(records=records, resolved=tuple(resolved))


def _from_toml(text: str, name: str, known: set[str]) -> dict[str, object]:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    flat: dict[str, object] = {}
    for section, table in parsed.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: '{section}' must be a table like [{section}], got {table!r}")
        flat |= {f"{section}.{key}": value for key, value in table.items()}
    return _checked(flat, known, name)


def _from_environment(environment: Mapping[str, str], aliases: Mapping[str, str], known: set[str]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable in aliases:
            if aliases[variable]:
                flat[aliases[variable]] = value
            continue
        path = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
        if path not in known:
            raise ConfigError(f"environment: {variable} is no setting{_nearest(path, known)}")
        flat[path] = value
    return flat


def _checked(values: Mapping[str, object], known: set[str], source: str) -> dict[str, object]:
    for path in values:
        if path not in known:
            raise ConfigError(f"{source}: unknown key '{path}'{_nearest(path, known)}")
    return dict(values)


def _nearest(path: str, known: set[str]) -> str:
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    return f"; the nearest known key is '{close[0]}'" if close else ""


def _convert(value: object, kind: object, path: str, origin: str) -> object:
    try:
        return msgspec.convert(value, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {path} = {value!r}: {error}") from error


def _mask_password(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    userinfo, at, host = rest.rpartition("@")
    if not separator or not at or ":" not in userinfo:
        return text
    return f"{scheme}://{userinfo.split(':', 1)[0]}:********@{host}"
