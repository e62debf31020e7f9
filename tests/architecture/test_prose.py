"""The prose linter finds what it forbids and lets the rest pass."""

import pytest

from tests.architecture.prose import findings, main


def messages(text: str, name: str = "stream/example.py") -> list[str]:
    return [f"{each.line}: {each.message}" for each in findings(name, text)]


def _function(docstring: str) -> str:
    return f'def f() -> None:\n    """{docstring}"""\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"""What becomes of an event."""\n', "1: docstring opens with the indirect question 'What ...'"),
        (_function("Whether it is open."), "2: docstring opens with the indirect question 'Whether ...'"),
        (_function("Softmax of the scores."), "2: docstring opens with 'Softmax'; begin with a verb in the imperative"),
        ('class A:\n    """Joins clicks."""\n', "2: docstring opens with the verb 'Joins'; begin with a noun phrase"),
        ("x = 1  # whatever runs ahead\n", "1: 'whatever': use say which"),
        ("\n'the fate of a letter'\n", "2: 'fate': use 'outcome'"),
        ("class EventFate: ...\n", "1: identifier 'EventFate': use 'outcome'"),
        ("x = 1  # see RULES.md 9\n", "1: page 'RULES.md' does not exist"),
        ("# it no longer waits\n", "1: 'no longer': use describe the present state"),
    ],
)
def test_a_breach_is_found(text: str, expected: str) -> None:
    assert expected in messages(text)


@pytest.mark.parametrize(
    "text",
    [
        '"""Outcomes of events."""\n',
        _function("Return whether the query is open."),
        'class A:\n    """Lists of clicks."""\n',
        'class A:\n    @property\n    def x(self) -> int:\n        """Size in bytes."""\n',
        "# a dead letter, DeadLetter, dead_letter\n",
        "# is used to compare, see docs/glossary.md and https://example.org/PAGE.md\n",
        "x = fated\n",
    ],
)
def test_plain_text_passes(text: str) -> None:
    assert messages(text) == []


def test_pages_are_looked_up_from_the_root_and_from_the_folder() -> None:
    assert messages("[a](README.md), [b](glossary.md), [c](../CONTRIBUTING.md)\n", "docs/README.md") == []


def test_tests_may_open_with_a_sentence() -> None:
    assert messages(_function("The log is read twice."), "tests/example.py") == []


@pytest.fixture
def one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.architecture.prose.tracked", lambda: ["tests/architecture/test_prose.py"])


@pytest.mark.usefixtures("one_finding")
def test_a_report_succeeds_and_a_check_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert main(["--report"]) == 0
    assert "tests/architecture/test_prose.py:" in capsys.readouterr().out
