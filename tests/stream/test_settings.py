"""The loader of settings records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from stream import settings
from stream.errors import ConfigError
from stream.setting_fields import secret


@dataclass(frozen=True, slots=True, kw_only=True)
class LampSettings:
    """Lamp of the house.

    Attributes:
        share: Share of its light.
        steps: Shares of its steps.
        name: Its name.
    """

    share: float = 1.0
    steps: tuple[float, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """Door of the house.

    Attributes:
        address: Where the door is; a description may take
            a second line.
        port: Number of the door.
        mode: How it opens.
        code: Code of the lock.
        link: URL of the key's owner.
        key: Key of the lock.

    Example:
        port: is no attribute here.
    """

    address: str = "north"
    port: int = 1
    mode: Literal["in", "out"] = "in"
    code: str = secret()
    link: str = secret(url=True)
    key: str = secret(private_file=True)

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError(f"port = {self.port}: expected 0 or more")


SECTIONS = {"door": DoorSettings}


def door(
    toml: str = "", environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> DoorSettings:
    return load(toml, environment, flags).get("door", DoorSettings)


def load(
    toml: str = "", environment: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> settings.Settings:
    aliases = {"SHELFWISE_DOOR": "door.address", "SHELFWISE_HOME": ""}
    return settings.load(
        SECTIONS,
        toml=toml,
        toml_name="house.toml",
        environment=environment,
        aliases=aliases,
        flags=flags,
        renamed={"gate.port": "door.port"},
    )


def test_later_layers_win_and_origins_are_kept() -> None:
    loaded = load(
        '[door]\naddress = "file"\nport = 2\nmode = "out"',
        {"SHELFWISE_DOOR__PORT": "3", "SHELFWISE_DOOR": "alias", "SHELFWISE_HOME": "/x", "OTHER": "y"},
        {"door.port": "4"},
    )
    assert loaded.get("door", DoorSettings) == DoorSettings(address="alias", port=4, mode="out")
    origins = {setting.key: setting.origin for setting in loaded.resolved}
    assert (origins["address"], origins["port"], origins["mode"], origins["code"]) == (
        "environment",
        "flag",
        "file",
        "default",
    )


def test_a_former_name_sets_the_setting_in_every_layer() -> None:
    assert door("[gate]\nport = 2").port == 2
    assert door("[door]\nport = 2", {"SHELFWISE_GATE__PORT": "3"}).port == 3
    assert door("[door]\nport = 2", {"SHELFWISE_GATE__PORT": "3"}, {"gate.port": "4"}).port == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"toml": "[door]\nprot = 1"}, r"house.toml: unknown key 'door.prot'; the nearest known key is 'door.port'"),
        ({"toml": "[dor]\nport = 1"}, r"house.toml: unknown key 'dor.port'; the nearest known key is 'door.port'"),
        ({"toml": "[door]\nzzzzzz = 1"}, r"house.toml: unknown key 'door.zzzzzz'; the keys of 'door' are .*port"),
        ({"toml": "[zzz]\nqqq = 1"}, r"house.toml: unknown key 'zzz.qqq'; the sections are door"),
        ({"toml": "door = 1"}, r"house.toml: 'door' must be a table"),
        ({"toml": "[door"}, r"house.toml: "),
        ({"environment": {"SHELFWISE_DOOR__PROT": "1"}}, r"SHELFWISE_DOOR__PROT is no setting; .* 'door.port'"),
        ({"environment": {"SHELFWISE_DOOR__PORT": "x"}}, r"environment: door.port = 'x'"),
        ({"flags": {"door.mode": "up"}}, r"flag: door.mode = 'up'"),
        ({"flags": {"door.mood": "up"}}, r"flag: unknown key 'door.mood'"),
        ({"flags": {"door.port": 1, "gate.port": 2}}, r"flag: gate.port and door.port are two names of one setting"),
        ({"toml": "[gate]\nport = 'x'"}, r"file: door.port = 'x'"),
        ({"toml": "[gate]\nprot = 1"}, r"house.toml: unknown key 'gate.prot'"),
        ({"flags": {"door.port": -1}}, r"\[door\] port = -1: expected 0 or more"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "share"), [(".25", 0.25), ("-.5", -0.5), ("0.25", 0.25), ("1e-3", 0.001), ("7", 7.0)])
def test_a_share_may_begin_with_its_point(text: str, share: float) -> None:
    given = {"lamp.share": text, "lamp.steps": f"{text},.75", "lamp.name": ".25"}
    found = settings.load({"lamp": LampSettings}, flags=given).get("lamp", LampSettings)
    assert found == LampSettings(share=share, steps=(share, 0.75), name=".25")


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["share", "steps"])
def test_a_number_that_is_not_finite_is_refused(key: str, value: str | float) -> None:
    """No comparison with NaN holds, so it would pass every check of a range and switch a limit off."""
    given = value if key == "share" or isinstance(value, str) else [value]
    with pytest.raises(ConfigError, match=rf"flag: lamp\.{key} = "):
        settings.load({"lamp": LampSettings}, flags={f"lamp.{key}": given})


@pytest.mark.parametrize(("text", "value"), [("1234", "1234"), ("1234\n", "1234"), ("12 34\r\n", "12 34")])
def test_a_secret_comes_from_a_file_without_its_line_break(tmp_path: Path, text: str, value: str) -> None:
    file = tmp_path / "code"
    file.write_bytes(text.encode())
    for loaded in (
        load(environment={"SHELFWISE_DOOR__CODE_FILE": str(file)}),
        load(toml=f"[door]\ncode_file = '{file}'"),
        load(flags={"door.code_file": file}),
    ):
        assert loaded.get("door", DoorSettings).code == value
        shown = {setting.key: (setting.shown, setting.origin) for setting in loaded.resolved}
        assert shown["code"] == ("********", "code_file")
        assert shown["code_file"][0] == str(file)


def test_a_secret_given_twice_is_refused_with_both_names(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text("1234")
    with pytest.raises(ConfigError, match=r"door\.code and door\.code_file are both set"):
        door(toml=f"[door]\ncode_file = '{file}'", environment={"SHELFWISE_DOOR__CODE": "5678"})
    assert door(environment={"SHELFWISE_DOOR__CODE_FILE": str(file), "SHELFWISE_DOOR__CODE": ""}).code == "1234"
    assert door(environment={"SHELFWISE_DOOR__CODE_FILE": "", "SHELFWISE_DOOR__CODE": "5678"}).code == "5678"


def test_an_unreadable_secret_file_is_refused_with_setting_and_path(tmp_path: Path) -> None:
    missing, empty, binary = tmp_path / "missing", tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    for file, reason in ((missing, "No such file"), (tmp_path, "directory"), (empty, "empty"), (binary, "UTF-8")):
        with pytest.raises(ConfigError) as caught:
            door(environment={"SHELFWISE_DOOR__CODE_FILE": str(file)})
        assert "door.code_file" in str(caught.value)
        assert str(file) in str(caught.value)
        assert reason in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o777])
def test_a_private_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text("canary")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"door\.key_file .*mode {mode:04o} lets others in, expected 0600") as caught:
        door(environment={"SHELFWISE_DOOR__KEY_FILE": str(file)})
    assert "canary" not in str(caught.value)
    for own in (0o600, 0o400):
        file.chmod(own)
        assert door(environment={"SHELFWISE_DOOR__KEY_FILE": str(file)}).key == "canary"


@pytest.mark.parametrize(
    "link",
    [
        "postgresql://me:canary@db/shop",
        "postgresql://me:can:ary@db/shop".replace("can:ary", "x:canary@y"),
        "postgresql://db/shop?user=me&password=canary",
        "postgresql://db/shop?sslPassword=canary&x=1",
    ],
)
def test_no_secret_is_printed(link: str) -> None:
    loaded = load(toml=f'[door]\ncode = "canary"\nlink = "{link}"')
    printed = (repr(loaded), str(loaded), repr(loaded.get("door", DoorSettings)), str(loaded.resolved))
    assert all("canary" not in text for text in (*printed, *(setting.shown for setting in loaded.resolved)))
    assert "postgresql://" in next(setting.shown for setting in loaded.resolved if setting.key == "link")


def test_an_empty_secret_is_shown_as_empty() -> None:
    assert {setting.shown for setting in load().resolved if "code" in setting.key} == {""}


def test_a_secret_of_a_wrong_type_is_not_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        load(toml="[door]\ncode = [4711]")
    assert "4711" not in str(caught.value)
    assert "door.code = ********" in str(caught.value)
