"""The user of a command, also where the user has no name."""

import getpass
import os

import pytest

from deploy.commands.arguments import named_user
from stream.errors import ConfigError


def test_the_given_name_comes_first_and_the_login_name_second() -> None:
    assert named_user("ada") == "ada"
    assert named_user(None) == getpass.getuser()


@pytest.mark.parametrize("user", ["", " ", "controller, term 3"])
def test_what_is_no_name_of_a_user_is_refused(user: str) -> None:
    with pytest.raises(ConfigError, match=f"as = '{user}': expected the name of a user"):
        named_user(user)


@pytest.mark.parametrize("fault", [KeyError("getpwuid(): uid not found: 10001"), OSError("No username set")])
def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def refuse() -> str:
        raise fault

    monkeypatch.setattr(getpass, "getuser", refuse)
    assert named_user(None) == f"uid {os.getuid()}"
