"""The settings sections of the program: all of them described, no secret printed, pages up to date."""

import re
import typing
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import reference
from deploy.cli import app
from deploy.configuration import ALIASES, load, sections
from stream.settings import keys, secrecy_of

ROOT = Path(__file__).parents[2]
SECTIONS = sections()
SECRETS = [
    (section, field.name)
    for section, kind in SECTIONS.items()
    for field in fields(typing.cast("type[typing.Any]", kind))
    if secrecy_of(field)
]


def test_every_settings_record_is_a_section() -> None:
    declared = {
        name
        for package in ("stream", "abtest", "trainer", "serving", "deploy")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"^class (\w+Settings)\b", path.read_text(), re.MULTILINE)
    }
    assert declared == {kind.__name__ for kind in SECTIONS.values()}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_described_once(section: str) -> None:
    declared = {field.name for field in fields(SECTIONS[section])}
    described = keys(SECTIONS[section])
    assert {key for key, text in described.items() if text} == set(described)
    assert declared <= set(described)
    documented = re.findall(r"^ {8}(\w+): ", SECTIONS[section].__doc__ or "", re.MULTILINE)
    assert sorted(documented) == sorted(declared)


def test_fields_that_sound_secret_are_secret() -> None:
    for section, kind in SECTIONS.items():
        for field in fields(kind):
            if re.search(r"password|token|secret|hash_key", field.name):
                assert (section, field.name) in SECRETS
    assert {("kafka", "password"), ("database", "url"), ("grafana", "token")} <= set(SECRETS)


@pytest.mark.parametrize(("section", "key"), SECRETS)
def test_a_planted_secret_is_printed_nowhere(section: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "postgresql://me:canary-4711@db/shop" if (section, key) == ("database", "url") else "canary-4711"
    monkeypatch.setattr("deploy.configuration.environment", lambda: {f"SHELFWISE_{section}__{key}".upper(): planted})
    context = load()
    record = context.settings.records[section]
    assert getattr(record, key) == planted
    shown = [CliRunner().invoke(app, ["config", "show", *flags]).output for flags in ([], ["--json"])]
    assert all("default" in text for text in shown)
    for text in (repr(record), str(record), repr(context), str(context), *shown):
        assert "canary" not in text


@pytest.mark.parametrize(("section", "key"), SECRETS)
def test_every_secret_comes_from_a_file(
    section: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("sqlite:///canary.db\n")
    variable = f"SHELFWISE_{section}__{key}_FILE".upper()
    monkeypatch.setattr("deploy.configuration.environment", lambda: {variable: str(file)})
    assert getattr(load().settings.records[section], key) == "sqlite:///canary.db"


def test_aliases_lead_to_settings() -> None:
    known = {f"{section}.{key}" for section, kind in SECTIONS.items() for key in keys(kind)}
    assert {path for path in ALIASES.values() if path} <= known


def test_the_configuration_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference.configuration(), "run `make docs`"
    assert CliRunner().invoke(app, ["config", "reference"]).output == reference.configuration()
