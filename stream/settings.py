"""Loader of settings records: defaults, one TOML file, the environment and flags; later wins.

Records are frozen dataclasses declared next to their owners, and every field has a default. A field declared with
`setting_fields.secret()` also has a twin `<field>_file`: a path whose content is the value.
"""

import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass

import msgspec

from stream.errors import ConfigError
from stream.setting_fields import (
    FILE_SUFFIX,
    MASK,
    Secrecy,
    as_text,
    has_private_file,
    keys,
    leaves,
    masked,
    secrecy_of,
    value_at,
)
from stream.setting_sources import checked, from_environment, from_toml, nearest, read_secret

Record = typing.TypeVar("Record")
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One resolved value and its origin.

    Attributes:
        section: Name of the section.
        key: Name of the field, or of a secret field with `_file` appended.
        value: The resolved value.
        origin: `default`, `profile`, `file`, `environment`, `flag`, or the key of the file that holds the secret.
        description: Meaning of the setting.
        secrecy: How much of the value is secret.
    """

    section: str
    key: str
    value: object
    origin: str
    description: str
    secrecy: Secrecy = ""

    @property
    def shown(self) -> str:
        """Return the value for people, with secrets masked."""
        return masked(as_text(self.value), self.secrecy)

    def __repr__(self) -> str:
        return f"Setting({self.section}.{self.key} = {self.shown!r}, origin={self.origin!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sections of one command, and the origin of each value."""

    records: Mapping[str, object]
    resolved: tuple[Setting, ...]

    def get(self, section: str, kind: type[Record]) -> Record:
        """Return the record of `section`; a wrong kind is a programming error."""
        record = self.records[section]
        assert isinstance(record, kind), f"section {section} holds {type(record).__name__}, not {kind.__name__}"
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledSection:
    """A section whose record, with its defaults, is chosen by the sections before it.

    Attributes:
        variants: Kind of the section (for example the name of a model) to profile to the record of defaults.
        choose: Returns the kind and the profile, from the records of the sections before it.
    """

    variants: Mapping[str, Mapping[str, object]]
    choose: Callable[[Mapping[str, object]], tuple[str, str]]

    @property
    def kinds(self) -> tuple[type, ...]:
        """The records that the section may hold."""
        return tuple({type(record): None for profiles in self.variants.values() for record in profiles.values()})


Section = type | ProfiledSection


def section_keys(section: Section) -> dict[str, str]:
    """Return every key that a section may have, with its description."""
    kinds = section.kinds if isinstance(section, ProfiledSection) else (section,)
    return {key: description for kind in kinds for key, description in keys(kind).items()}


def load(
    sections: Mapping[str, Section],
    *,
    toml: str = "",
    toml_name: str = "configuration file",
    environment: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Settings:
    """Resolve every field of every section.

    Args:
        sections: Section name to the dataclass that declares its fields, or to the choice of it.
        toml: Text of the configuration file, one table per section.
        toml_name: Name of that file, for messages.
        environment: Variables; `SHELFWISE_SECTION__KEY` sets a field, others with the prefix are errors unless aliased.
        aliases: Variable name to `section.key`, or to an empty string for variables that are not settings.
        flags: `section.key` to value, as given on the command line.
        renamed: Former `section.key` to the present one; files, variables and flags may use both names.

    Raises:
        ConfigError: On an unknown key (with the nearest known one), a wrong type, a refused value, a setting that is
            given under both of its names, a secret that is given twice or a secret's file that cannot be read.
    """
    keys_now = {f"{name}.{key}": f"{name}.{key}" for name, section in sections.items() for key in section_keys(section)}
    known = keys_now | dict(renamed or {})
    layers: list[tuple[str, dict[str, object]]] = [
        ("file", from_toml(toml, toml_name, known)),
        ("environment", from_environment(environment or {}, aliases or {}, known)),
        ("flag", checked(flags or {}, known, "flag")),
    ]
    given = {path: (origin, value) for origin, values in layers for path, value in values.items()}
    records: dict[str, object] = {}
    resolved: list[Setting] = []
    for name, section in sections.items():
        base: object = None
        if isinstance(section, ProfiledSection):
            variant, profile = section.choose(records)
            base = section.variants[variant][profile]
            _check_variant(name, variant, type(base), given)
        kind = section if isinstance(section, type) else type(base)
        record, found = _resolve(name, kind, given, base)
        records[name] = record
        resolved += found
    return Settings(records=records, resolved=tuple(resolved))


def _check_variant(section: str, variant: str, kind: type, given: Mapping[str, tuple[str, object]]) -> None:
    """Refuse keys that belong to another variant of the section."""
    known = {f"{section}.{key}" for key in keys(kind)}
    for path, (origin, _) in given.items():
        if path.startswith(section + ".") and path not in known:
            raise ConfigError(f"{origin}: '{path}' is no setting of {variant}{nearest(path, known)}")


def _resolve(
    section: str, kind: type, given: Mapping[str, tuple[str, object]], base: object
) -> tuple[object, list[Setting]]:
    described = keys(kind)
    chosen: dict[str, object] = {}
    origins: dict[str, str] = {}
    files: dict[str, tuple[str, str]] = {}
    for name, declared, hint in leaves(kind):
        path = f"{section}.{name}"
        if path in given:
            origins[name], value = given[path]
            chosen[name] = _convert(value, hint, path, origins[name], secrecy_of(declared))
        if secrecy_of(declared):
            origin, file = given.get(path + FILE_SUFFIX, ("default", ""))
            files[name] = str(file), origin
            if file and chosen.get(name):
                raise ConfigError(f"{path} and {path}{FILE_SUFFIX} are both set: set one of them")
            if file:
                is_private = has_private_file(declared)
                chosen[name] = read_secret(path + FILE_SUFFIX, str(file), is_private=is_private)
                origins[name] = name + FILE_SUFFIX
    try:
        plain = kind()
        record = _build(kind, chosen, base if base is not None else plain)
    except ValueError as error:
        raise ConfigError(f"[{section}] {error}") from error
    resolved = []
    for name, declared, _ in leaves(kind):
        value = value_at(record, name)
        is_profile = name not in chosen and value != value_at(plain, name)
        setting = Setting(
            section=section,
            key=name,
            value=value,
            origin=origins.get(name, "profile" if is_profile else "default"),
            description=described[name],
            secrecy=secrecy_of(declared),
        )
        resolved.append(setting)
        if name in files:
            file, origin = files[name]
            key = name + FILE_SUFFIX
            resolved.append(Setting(section=section, key=key, value=file, origin=origin, description=described[key]))
    return record, resolved


def _build(kind: type, chosen: Mapping[str, object], base: object, prefix: str = "") -> object:
    """Return a record of the chosen values by dotted key, the others from `base`."""
    values: dict[str, object] = {}
    for declared in fields(kind):
        old, key = getattr(base, declared.name), prefix + declared.name
        values[declared.name] = _build(type(old), chosen, old, f"{key}.") if is_dataclass(old) else chosen.get(key, old)
    return kind(**values)


def _convert(value: object, kind: object, path: str, origin: str, secrecy: Secrecy) -> object:
    given: object = value
    if typing.get_origin(kind) is tuple and isinstance(value, str):
        given = [part for part in re.split(r"[\s,\[\]\"']+", value) if part]
    shown = MASK if secrecy else repr(value)
    try:
        found: object = msgspec.convert(given, type=kind, strict=False)
    except msgspec.ValidationError as error:
        # JSON, by whose rules text becomes a number, has no .5.
        if isinstance(value, str) and (with_zero := _BARE_POINT.sub("0.", value)) != value:
            return _convert(with_zero, kind, path, origin, secrecy)
        raise ConfigError(f"{origin}: {path} = {shown}: {error}") from error
    numbers = found if isinstance(found, tuple) else (found,)
    # No comparison with NaN holds, so a limit of NaN would be none.
    if not all(math.isfinite(each) for each in numbers if isinstance(each, float)):
        raise ConfigError(f"{origin}: {path} = {shown}: expected a finite number")
    return found
