"""Loader of settings records: defaults, one TOML file, the environment and flags; later wins.

Records are frozen dataclasses declared next to their owners. Every field has a default, and its description stands in
the `Attributes:` section of the class' docstring, or of a base class. The fields of a record inside a record have
dotted keys. A field declared with `secret()` also has a twin `<field>_file`: a path whose content is the value. The
caller passes the TOML text and the environment; the loader itself reads no file but those that hold secrets.
"""

import difflib
import inspect
import re
import stat
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal

import msgspec

from stream.errors import ConfigError

ENV_PREFIX = "SHELFWISE_"
MASK = "********"
Record = typing.TypeVar("Record")
Secrecy = Literal["", "value", "url"]
_SECRECY = "shelfwise.secrecy"
_PRIVATE_FILE = "shelfwise.private_file"
_FILE = "_file"
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")


def secret(*, url: bool = False, private_file: bool = False) -> str:
    """Declare a field whose value is never printed and which can also come from the file `<field>_file`.

    Args:
        url: The value is a URL that may hold a password; only the password is masked.
        private_file: The file is refused if others than its owner may read or write it.

    Example:
        A record declares `password: str = secret()`.
    """
    secrecy: Secrecy = "url" if url else "value"
    return field(default="", repr=False, metadata={_SECRECY: secrecy, _PRIVATE_FILE: private_file})


def secrecy_of(declared: Field[object]) -> Secrecy:
    """Return how much of a field's value is secret."""
    found: Secrecy = declared.metadata.get(_SECRECY, "")
    return found


def descriptions(kind: type) -> dict[str, str]:
    """Return the description of each field, from the `Attributes:` sections of the class and its bases."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found |= _attributes(one)
    return found


def _attributes(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    for line in attributes.splitlines():
        if start := re.match(r" {4}(\w+): +(.+)", line):
            name = start[1]
            found[name] = start[2]
        elif line.startswith("     ") and name:
            found[name] += " " + line.strip()
        else:
            break
    return found


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
        ("file", _from_toml(toml, toml_name, known)),
        ("environment", _from_environment(environment or {}, aliases or {}, known)),
        ("flag", _checked(flags or {}, known, "flag")),
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


def keys(kind: type) -> dict[str, str]:
    """Return every key of a section with its description; a secret field has a second key that ends in `_file`."""
    described = descriptions(kind)
    hints = typing.get_type_hints(kind)
    found: dict[str, str] = {}
    for declared in fields(kind):
        if is_dataclass(inner := hints[declared.name]):
            found |= {f"{declared.name}.{key}": text for key, text in keys(inner).items()}  # type: ignore[arg-type] # a type
            continue
        found[declared.name] = described.get(declared.name, "")
        if secrecy_of(declared):
            found[declared.name + _FILE] = f"File that holds `{declared.name}`."
    return found


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Field[object], object]]:
    """Yield the dotted key, the field and the type of every value of a record."""
    hints = typing.get_type_hints(kind)
    for declared in fields(kind):
        hint = hints[declared.name]
        if is_dataclass(hint):
            yield from leaves(typing.cast("type", hint), f"{prefix}{declared.name}.")
        else:
            yield prefix + declared.name, declared, hint


def value_at(record: object, key: str) -> object:
    """Return the value of a record at a dotted key."""
    for name in key.split("."):
        record = getattr(record, name)
    return record


def values_by_key(section: str, record: object) -> dict[str, object]:
    """Return every value of a section by its dotted key, as plain values that survive JSON."""
    values = {f"{section}.{key}": value_at(record, key) for key, _, _ in leaves(type(record))}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def as_text(value: object) -> str:
    """Return a value as people write it; a list is `[a, b]`."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def masked(text: str, secrecy: Secrecy) -> str:
    """Return the text of a setting without its secret."""
    if secrecy == "value":
        return MASK if text else ""
    return _mask_password(text) if secrecy == "url" else text


def _check_variant(section: str, variant: str, kind: type, given: Mapping[str, tuple[str, object]]) -> None:
    """Refuse keys that belong to another variant of the section."""
    known = {f"{section}.{key}" for key in keys(kind)}
    for path, (origin, _) in given.items():
        if path.startswith(section + ".") and path not in known:
            raise ConfigError(f"{origin}: '{path}' is no setting of {variant}{_nearest(path, known)}")


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
            origin, file = given.get(path + _FILE, ("default", ""))
            files[name] = str(file), origin
            if file and chosen.get(name):
                raise ConfigError(f"{path} and {path}{_FILE} are both set: set one of them")
            if file:
                is_private = bool(declared.metadata.get(_PRIVATE_FILE))
                chosen[name] = _read(path + _FILE, str(file), is_private=is_private)
                origins[name] = name + _FILE
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
            key = name + _FILE
            resolved.append(Setting(section=section, key=key, value=file, origin=origin, description=described[key]))
    return record, resolved


def _build(kind: type, chosen: Mapping[str, object], base: object, prefix: str = "") -> object:
    """Return a record of the chosen values by dotted key, the others from `base`."""
    values: dict[str, object] = {}
    for declared in fields(kind):
        old, key = getattr(base, declared.name), prefix + declared.name
        values[declared.name] = _build(type(old), chosen, old, f"{key}.") if is_dataclass(old) else chosen.get(key, old)
    return kind(**values)


def _read(path: str, file: str, *, is_private: bool) -> str:
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


def _from_toml(text: str, name: str, known: Mapping[str, str]) -> dict[str, object]:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    flat: dict[str, object] = {}
    for section, table in parsed.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: '{section}' must be a table like [{section}], got {table!r}")
        flat |= _flat(section, table)
    return _checked(flat, known, name)


def _flat(prefix: str, table: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a table and of the tables inside it by dotted key."""
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return found


def _from_environment(
    environment: Mapping[str, str], aliases: Mapping[str, str], known: Mapping[str, str]
) -> dict[str, object]:
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
            raise ConfigError(f"environment: {variable} is no setting{_nearest(path, known.values())}")
        flat[path] = value
    return _checked(flat, known, "environment")


def _checked(values: Mapping[str, object], known: Mapping[str, str], source: str) -> dict[str, object]:
    """Return the values by the present names of their keys."""
    found: dict[str, object] = {}
    for path, value in values.items():
        if path not in known:
            raise ConfigError(f"{source}: unknown key '{path}'{_nearest(path, known.values())}")
        present = known[path]
        if present != path and present in values:
            raise ConfigError(f"{source}: {path} and {present} are two names of one setting: set {present} only")
        found[present] = value
    return found


def _nearest(path: str, known: Iterable[str]) -> str:
    """Return the known key that was probably meant, or the sections if the section is none of them."""
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


def _convert(value: object, kind: object, path: str, origin: str, secrecy: Secrecy) -> object:
    given: object = value
    if typing.get_origin(kind) is tuple and isinstance(value, str):
        given = [part for part in re.split(r"[\s,\[\]\"']+", value) if part]
    try:
        return msgspec.convert(given, type=kind, strict=False)
    except msgspec.ValidationError as error:
        # JSON, by whose rules text becomes a number, has no .5.
        if isinstance(value, str) and (with_zero := _BARE_POINT.sub("0.", value)) != value:
            return _convert(with_zero, kind, path, origin, secrecy)
        shown = MASK if secrecy else repr(value)
        raise ConfigError(f"{origin}: {path} = {shown}: {error}") from error


def _mask_password(text: str) -> str:
    text = re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", rf"\g<1>{MASK}", text, flags=re.IGNORECASE)
    scheme, separator, rest = text.partition("://")
    userinfo, at, host = rest.rpartition("@")
    if not separator or not at or ":" not in userinfo:
        return text
    return f"{scheme}://{userinfo.split(':', 1)[0]}:{MASK}@{host}"
