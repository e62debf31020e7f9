"""The rules for names: of what people choose, such as lineages, experiments, layers and arms, and of people.

A name is a folder, a Kafka key, a metric label and a database key, so one rule holds everywhere.
"""

import re
import unicodedata
from typing import Final

from stream.errors import ConfigError

NAME_LENGTH: Final = 64
USER_LENGTH: Final = 255
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_PROCESSES: Final = ("trainer", "controller")
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}")


def is_name(text: str) -> bool:
    """Return whether `text` is a name: 1 to 64 of `A-Z a-z 0-9 _ - .`, and begins with none of `_ - .`.

    >>> [is_name(text) for text in ("prm.v2", "_prm", "größe", "")]
    [True, False, False, False]
    """
    return _NAME.fullmatch(text) is not None


def check_name(what: str, text: str) -> None:
    """Refuse a text that is not a name.

    Args:
        what: The thing that is named, for the message.
        text: The name.

    Raises:
        ConfigError: If the text is not a name.
    """
    if not is_name(text):
        raise ConfigError(
            f"{what} = '{text[:80]}': expected up to {NAME_LENGTH} of A-Z, a-z, 0-9, '.', '_', '-', "
            "beginning with A-Z, a-z or 0-9"
        )


def check_reason(what: str, text: str) -> None:
    """Refuse a reason without words, which says nothing, and one that changes how the rest of a line looks.

    Args:
        what: Name of the option or argument, for the message.
        text: The reason.

    Raises:
        ConfigError: If it is empty or blank, or holds control or format characters.
    """
    if not text.strip():
        raise ConfigError(f"{what} = '{text[:80]}': expected some words, for the event")
    if any(unicodedata.category(each) in _UNSEEN for each in text):
        raise ConfigError(f"{what} = {text[:80]!a}: expected one line without control characters")


def check_user(user: str) -> None:
    """Refuse a text that does not name a user in the events that a command leaves.

    Raises:
        ConfigError: If it is empty or too long, holds control characters, or looks like the name of a trainer or a
            controller.
    """
    name = user.strip().lower()
    if not name or len(user) > USER_LENGTH or not user.isprintable() or name.startswith(_PROCESSES):
        raise ConfigError(f"as = {user[:80]!r}: expected the name of a user, not that of a trainer or controller")
