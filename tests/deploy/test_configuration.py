"""The settings sections of the program: all of them described, no secret printed, pages up to date."""

import re
import subprocess
import sys
import typing
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from deploy import reference
from deploy.cli import app
from deploy.configuration import ALIASES, RENAMED, load, sections
from stream.errors import ConfigError
from stream.setting_fields import as_text, keys, leaves, secrecy_of, value_at
from stream.settings import ProfiledSection, section_keys
from trainer.configs import MODEL_PROFILES

ROOT = Path(__file__).parents[2]
SECTIONS = sections()
KINDS = [kind for one in SECTIONS.values() for kind in (one.kinds if isinstance(one, ProfiledSection) else (one,))]
SECRETS = [
    (section, field.name)
    for section, kind in SECTIONS.items()
    if isinstance(kind, type)
    for field in fields(typing.cast("type[typing.Any]", kind))
    if secrecy_of(field)
]
KEY = "c0ffee47" * 8
VALUES = {
    ("database", "url"): "postgresql://me:canary-4711@db/shop",
    ("privacy", "client_id_key"): KEY,
    ("signing", "key"): KEY,
    ("signing", "accepted_key"): KEY,
    ("serving", "tokens"): f"score:{KEY}",
}
"""Values of secrets that are not any text."""


def test_every_settings_record_is_a_section() -> None:
    declared = {
        name
        for package in ("stream", "abtest", "trainer", "serving", "deploy")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"^class (\w+Settings)\b", path.read_text(), re.MULTILINE)
    }
    assert declared == {kind.__name__ for kind in KINDS if kind.__name__.endswith("Settings")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_described_once(kind: type) -> None:
    described = keys(kind)
    assert {key for key, text in described.items() if text} == set(described)
    assert {key for key, _, _ in leaves(kind)} <= set(described)
    bases = [base for base in kind.__mro__ if base is not object]
    documented = [name for base in bases for name in re.findall(r"^ {8}(\w+): ", base.__doc__ or "", re.MULTILINE)]
    assert sorted(documented) == sorted(field.name for field in fields(kind))


def test_fields_that_sound_secret_are_secret() -> None:
    for section, kind in SECTIONS.items():
        for field in fields(kind) if isinstance(kind, type) else ():
            if re.search(r"password|token|secret|hash_key", field.name):
                assert (section, field.name) in SECRETS
    assert {("kafka", "password"), ("database", "url"), ("grafana", "token")} <= set(SECRETS)


@pytest.mark.parametrize(("section", "key"), SECRETS)
def test_a_planted_secret_is_printed_nowhere(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = VALUES.get((section, key), "canary-4711")
    variables = {"SHELFWISE_SIGNING__KEY": KEY, f"SHELFWISE_{section}__{key}".upper(): planted}
    monkeypatch.setattr("deploy.configuration.environment", lambda: variables)
    context = load()
    record = context.settings.records[section]
    assert getattr(record, key) == planted
    shown = [CliRunner().invoke(app, ["config", "show", *flags]).output for flags in ([], ["--json"])]
    assert all("default" in text for text in shown)
    for text in (repr(record), str(record), repr(context), str(context), *shown):
        assert "canary" not in text
        assert "c0ffee" not in text


@pytest.mark.parametrize(("section", "key"), SECRETS)
def test_every_secret_comes_from_a_file(
    section: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    value = VALUES.get((section, key), "canary-4711")
    file.write_text(f"{value}\n")
    file.chmod(0o600)
    # The second key needs the first one.
    variables = {
        f"SHELFWISE_{section}__{each}_FILE".upper(): str(file) for each in {key, key.removeprefix("accepted_")}
    }
    monkeypatch.setattr("deploy.configuration.environment", lambda: variables)
    assert getattr(load().settings.records[section], key) == value


def test_aliases_lead_to_settings() -> None:
    known = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in section_keys(kind)}
    assert {path for path in ALIASES.values() if path} <= known


def test_former_names_lead_to_settings() -> None:
    known = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in section_keys(kind)}
    assert set(RENAMED.values()) <= known
    assert RENAMED.keys().isdisjoint(known)


def test_the_configuration_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference.configuration(), "run `make docs`"
    assert CliRunner().invoke(app, ["config", "reference"]).output == reference.configuration()


def shown(*flags: str) -> dict[str, tuple[str, str, str]]:
    """Return the value, origin and description of each key, as `config show` prints them."""
    output = CliRunner().invoke(app, [*flags, "config", "show", "--json"], catch_exceptions=False).stdout
    return {row["key"]: (row["value"], row["origin"], row["description"]) for row in msgspec.json.decode(output)}


@pytest.mark.parametrize("model", MODEL_PROFILES)
def test_every_field_of_every_model_is_set_from_each_source(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The values that stand in the profile are always allowed.
    record = MODEL_PROFILES[model]["tiny"]
    known = {key: value_at(record, key) for key, _, _ in leaves(type(record))}
    assert known

    def found(origin: str, config: Path | None = None, flags: dict[str, str] | None = None) -> dict[str, object]:
        resolved = load(config, flags).settings
        origins = {one.key: one.origin for one in resolved.resolved if one.section == "model" and one.key in known}
        assert origins == dict.fromkeys(known, origin)
        return {key: value_at(resolved.records["model"], key) for key in known}

    file = tmp_path / "shelfwise.toml"
    lines = [f"model.{key} = {msgspec.json.encode(value).decode()}\n" for key, value in known.items()]
    file.write_text("".join([f'trainer.model = "{model}"\n', *lines]))
    assert found("file", file) == known
    as_flags = {f"model.{key}": as_text(value) for key, value in known.items()}
    variables = {f"SHELFWISE_{key.replace('.', '__')}".upper(): text for key, text in as_flags.items()}
    chosen = {"trainer.model": model}
    with monkeypatch.context() as patch:
        patch.setattr("deploy.configuration.environment", lambda: variables)
        assert found("environment", None, chosen) == known
    monkeypatch.setattr("deploy.configuration.environment", dict)
    assert found("flag", None, chosen | as_flags) == known


def test_the_profile_gives_the_defaults_of_model_and_learning() -> None:
    tiny, full = shown(), shown("--set", "trainer.profile=full")
    assert tiny["model.width"][:2] == ("32", "profile")
    assert full["model.width"][:2] == ("192", "default")
    assert tiny["learning.optimizer"][:2] == ("adamw", "default")
    assert (full["learning.optimizer"][0], full["learning.lr"][0]) == ("adagrad", "0.07")
    assert shown("--set", "trainer.model=prm")["model.tower"] == (
        "[32, 16]",
        "profile",
        "Widths of the tower; pv is its last hidden layer.",
    )
    assert shown("--set", "model.modalities=image")["model.modalities"][:2] == ("[image]", "flag")
    assert shown("--set", "model.vocabulary.item=500")["model.vocabulary.item"][:2] == ("500", "flag")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.widht": "64"}, "unknown key 'model.widht'; the nearest known key is 'model.width'"),
        ({"model.vocabulary.itme": "64"}, "the nearest known key is 'model.vocabulary.item'"),
        ({"learning.batch_size": "64"}, "unknown key 'learning.batch_size'; the nearest known key is 'learning.batch"),
        ({"model.dropout": "0.1"}, "unknown key 'model.dropout'"),
        ({"model.cafu": "false", "trainer.model": "prm"}, "'model.cafu' is no setting of prm"),
        ({"model.width": "abc"}, "model.width = 'abc'"),
        ({"model.width": "33"}, r"\[model\] width = 33: expected a multiple of heads = 2"),
        ({"model.heads": "0"}, "heads = 0: expected at least 1"),
        ({"model.modalities": "sound"}, "model.modalities = 'sound'"),
        ({"model.modalities": "text,text"}, "modalities = "),
        ({"model.tower": "3", "trainer.model": "din"}, "model.tower = '3'"),
        ({"model.vocabulary.shop": "1"}, "vocabulary.shop = 1: expected at least 2"),
        ({"model.aux_weight": "nan"}, "aux_weight = 'nan': expected a finite number"),
        ({"model.aux_weight": "-1"}, "aux_weight = -1.0"),
        ({"learning.lr": "0"}, "lr = 0.0: expected more than 0"),
        ({"learning.lr": "inf"}, "lr = 'inf': expected a finite number"),
        ({"learning.dropout": "1"}, "dropout = 1.0"),
        ({"learning.batch": "0"}, "batch = 0: expected at least 1"),
        ({"learning.optimizer": "sgd"}, "learning.optimizer = 'sgd'"),
        ({"trainer.model": "gpt"}, "trainer.model = 'gpt'"),
        ({"trainer.profile": "paper"}, "trainer.profile = 'paper'"),
    ],
)
def test_a_wrong_key_or_value_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(overrides=overrides)


def test_a_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    """A running service that reads the file again keeps what it has upon an error of the configuration."""
    path = tmp_path / "shelfwise.toml"
    path.write_bytes(b'[serving]\nallowed_hosts = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"configuration file '.*shelfwise.toml': byte 30 is no UTF-8"):
        load(path)


def test_the_settings_load_without_heavy_libraries() -> None:
    """Every command loads all settings: each of these libraries would delay its start by tenths of a second."""
    program = (
        "import sys; from deploy.configuration import load; load();"
        "print(*{'torch', 'faust', 'aiokafka', 'kafka', 'sqlalchemy', 'scipy', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "\n"
