"""Lines of tokens: what they say, and which are refused without a word of their content."""

from datetime import date

import pytest

from serving.settings import ServingSettings
from serving.tokens import Role, make, parse, sha256_of

HASH = "ab" * 32


def test_a_made_token_is_known_by_its_line() -> None:
    text, token = make(Role.SCORE, lambda num: bytes(range(num)), date(2027, 3, 1))
    assert text == "shelfwise-score-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert str(token) == f"score:{sha256_of(text.encode()).hex()}:2027-03-01"
    assert parse(str(token)) == (token,)
    assert text not in str(token)


def test_lines_are_separated_by_white_space_or_commas() -> None:
    found = parse(f"score:{HASH},collect:{HASH}\n\n read:{HASH}:2027-03-01\n")
    assert [token.role for token in found] == [Role.SCORE, Role.COLLECT, Role.READ]
    assert [token.expires_ms for token in found] == [None, None, 1_803_859_200_000]
    assert parse("") == ()


@pytest.mark.parametrize(
    "line",
    [
        HASH,
        f"admin:{HASH}",
        f"SCORE:{HASH}",
        f"score:{HASH[:-1]}",
        f"score:{HASH}0",
        f"score:{HASH.upper()}",
        f"score:{HASH}:",
        f"score:{HASH}:2027-3-1",
        f"score:{HASH}:2027-02-30",
        f"score:{HASH}:2027-03-01:x",
        "score:shelfwise-score-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "score:ä",
    ],
)
def test_a_line_of_another_form_is_refused_and_not_printed(line: str) -> None:
    with pytest.raises(ValueError, match="tokens: entry 2: ") as caught:
        ServingSettings(tokens=f"read:{HASH} {line}")
    assert HASH[:-1] not in str(caught.value)
    assert "shelfwise-score" not in str(caught.value)


def test_a_role_has_two_tokens_at_most() -> None:
    two = [f"{role.value}:{number * 64}" for role in Role for number in "12"]
    assert len(parse(" ".join(two))) == 8
    with pytest.raises(ValueError, match="3 of the role read, expected at most 2"):
        parse(" ".join([*two, f"read:{HASH}"]))


def test_settings_do_not_show_them() -> None:
    assert HASH not in repr(ServingSettings(tokens=f"read:{HASH}"))
