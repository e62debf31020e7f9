"""Fields of settings records."""

from stream.setting_fields import keys
from tests.stream.test_settings import DoorSettings, load


def test_descriptions_come_from_the_docstring() -> None:
    assert keys(DoorSettings) == {
        "address": "Where the door is; a description may take a second line.",
        "port": "Number of the door.",
        "mode": "How it opens.",
        "code": "Code of the lock.",
        "code_file": "File that holds `code`.",
        "link": "URL of the key's owner.",
        "link_file": "File that holds `link`.",
        "key": "Key of the lock.",
        "key_file": "File that holds `key`.",
    }
    assert load().resolved[1].description == "Number of the door."
