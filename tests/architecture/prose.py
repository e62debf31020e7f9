"""A linter for the project's English: openings of docstrings, words with a better term, and pages that do not exist.

Run it as `python -m tests.architecture.prose`. It prints one `file:line: message` for each finding and exits with
status 1 if there is any. With `--report` it prints the same and exits with status 0.

The rules follow the Google developer documentation style: a noun phrase describes a class or module, a verb in the
imperative describes a function, and one term means one thing. `docs/glossary.md` defines the terms.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = Path(__file__).parent / "words"
PRODUCT = ("stream/", "abtest/", "trainer/", "serving/", "deploy/")
TEXTS = (".md", ".toml", ".yml", ".yaml", ".cfg", ".ini", ".sh", ".properties", ".jinja")
NAMES = ("Makefile", ".ci/run", ".ci/servers")
# These files quote the words that they forbid, list dependencies, or tell history because that is their purpose.
LEFT_OUT = (
    "tests/architecture/prose.py",
    "tests/architecture/test_prose.py",
    "requirements/",
    "CHANGELOG.md",
    "LICENSE",
    "tests/grafana_contract/",
    "tests/grafana_types/",
    "deploy/migrations/versions/",
)

QUESTIONS = frozenset(["What", "Which", "Where", "Whether", "Who", "Whose", "How", "When", "Why"])

# Verbs that open a function's docstring. Add a verb that is missing; do not add a noun.
VERBS = frozenset((WORDS / "verbs.txt").read_text(encoding="utf-8").split())
# Verbs in the third person that open no noun phrase, against the plural nouns that look the same.
_PLURALS = frozenset((WORDS / "plural_nouns.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True, slots=True)
class Rule:
    """Text that is refused, and what to write in its place; `files` may use it, each for the reason beside it."""

    pattern: str
    instead: str
    files: tuple[str, ...] = ()
    names_too: bool = False


# Words of the prose. A term that also stands in identifiers is looked for there as well.
RULES = (
    # Style.
    Rule(r"whatever", "say which"),
    Rule(r"of ours", "name the owner"),
    Rule(r"speaks? of", "'names' or 'refers to'"),
    Rule(r"in hand", "'current'"),
    Rule(
        r"(?<![\"'/-])nobody(?![\"':-])",
        "'no one', or name the reader that is missing",
        files=("tests/harness/postgres.py",),
    ),
    Rule(r"what is asked of", "name the demand"),
    # History.
    Rule(r"no longer", "describe the present state"),
    Rule(r"(?<!is )(?<!are )(?<!be )(?<!was )used to", "describe the present state"),
    Rule(r"previously", "describe the present state"),
    Rule(r"for now", "describe the present state"),
    # Terms; docs/glossary.md defines those on the right.
    Rule(r"fates?", "'outcome'", names_too=True),
    Rule(r"bury|buries|buried", "'reject' or 'send to the dead-letter topic'", names_too=True),
    Rule(r"(?<!dead[- _])(?<!capital )(?<![\"'])letters?(?! or digit|, digits|[\"':])", "'dead letter'"),
    Rule(
        r"ledgers?",
        "'outcome counters'",
        # The command that prints what judgements cost.
        files=(
            "deploy/commands/annotate.py",
            "tests/deploy/commands/test_annotate.py",
            "tests/system/test_annotation_loop.py",
            "docs/annotation.md",
        ),
        names_too=True,
    ),
    Rule(r"mute[sd]?|muting", "'fence'", names_too=True),
    Rule(r"shelves", "'store factory'", names_too=True),
    Rule(r"pulses?", "'heartbeat'", names_too=True),
    Rule(r"grown_ts", "'last_advance_ts'"),
    Rule(r"localis(?:e|ed|es|ing)", "'gather unique rows'", names_too=True),
    Rule(r"InUse", "'ServedVersion'"),
    Rule(r"pepper(?:s|ed)?", "'query hash key'", names_too=True),
    Rule(r"exaggeration(?! ratio)", "'exaggeration ratio'"),
    Rule(r"foreign lines?", "'order lines in another currency'"),
    Rule(r"recent set", "'seen-set'"),
)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that breaks a rule."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return the finding as editors and terminals understand it."""
        return f"{self.file}:{self.line}: {self.message}"


def tracked() -> list[str]:
    """Return the files of the project that hold prose, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return sorted(
        name
        for name in listed
        if (name.endswith((".py", *TEXTS)) or name in NAMES)
        and not name.startswith(LEFT_OUT)
        and (ROOT / name).is_file()
    )


def findings(name: str, text: str) -> Iterator[Finding]:
    """Yield all findings of one file."""
    if name.endswith(".py"):
        yield from openings(name, text)
        for line, prose in _python_prose(text):
            yield from _words(name, line, prose)
        yield from _identifiers(name, text)
    else:
        for line, prose in enumerate(text.splitlines(), 1):
            yield from _words(name, line, prose)
    yield from pages(name, text)


def openings(name: str, text: str) -> Iterator[Finding]:
    """Yield the docstrings that do not open as their kind demands."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        found = ast.get_docstring(node, clean=True)
        if not found:
            continue
        line = 1 if isinstance(node, ast.Module) else node.body[0].lineno
        first = found.split()[0].rstrip(".,:;")
        if first in QUESTIONS:
            yield Finding(name, line, f"docstring opens with the indirect question '{first} ...'")
        elif not name.startswith(PRODUCT):
            continue
        elif isinstance(node, ast.Module | ast.ClassDef):
            if _is_third_person(first):
                yield Finding(name, line, f"docstring opens with the verb '{first}'; begin with a noun phrase")
        elif not _is_noun_like(node) and first.lower() not in VERBS:
            yield Finding(name, line, f"docstring opens with '{first}'; begin with a verb in the imperative")


def _is_third_person(word: str) -> bool:
    lower = word.lower()
    if lower in _PLURALS or not lower.endswith("s"):
        return False
    return lower[:-1] in VERBS or lower.removesuffix("es") in VERBS or f"{lower.removesuffix('ies')}y" in VERBS


def _is_noun_like(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether the function reads as a value: a property, a fixture or a context manager."""
    for decorator in node.decorator_list:
        plain = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = plain.attr if isinstance(plain, ast.Attribute) else getattr(plain, "id", "")
        if last in {"property", "cached_property", "fixture", "contextmanager", "asynccontextmanager"}:
            return True
    return False


_EXPRESSION = re.compile(r"\{[^{}]*\}")


def _python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of comments and strings, docstrings included."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            is_formatted = token.type == tokenize.STRING and token.string[:2].lower().count("f") == 1
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, _EXPRESSION.sub("", line) if is_formatted else line


def _identifiers(name: str, text: str) -> Iterator[Finding]:
    """Yield identifiers one of whose words is a refused term."""
    rules = [(rule, re.compile(rule.pattern, re.IGNORECASE)) for rule in RULES if rule.names_too]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.NAME:
            continue
        parts = [part for part in re.split(r"_|(?<=[a-z0-9])(?=[A-Z])", token.string) if part]
        for rule, compiled in rules:
            if name not in rule.files and any(compiled.fullmatch(part) for part in parts):
                yield Finding(name, token.start[0], f"identifier '{token.string}': use {rule.instead}")


_WORDS = [(rule, re.compile(rf"\b(?:{rule.pattern})\b", re.IGNORECASE)) for rule in RULES]


def _words(name: str, line: int, prose: str) -> Iterator[Finding]:
    for rule, compiled in _WORDS:
        if name not in rule.files and (found := compiled.search(prose)):
            yield Finding(name, line, f"'{found.group()}': use {rule.instead}")


_PAGE = re.compile(r"(?<![\w/.*{])((?:\.{1,2}/)*[\w-]+(?:[/.][\w-]+)*\.md)\b(?!\.)")


def pages(name: str, text: str) -> Iterator[Finding]:
    """Yield cited Markdown pages that the project does not have, looked up from the root and from the file's folder."""
    for line, prose in enumerate(text.splitlines(), 1):
        for page in _PAGE.findall(prose):
            if f'"{page}"' in prose or ("://" in prose and f"/{page}" in prose):
                continue  # a path in code, or the page of another project
            if not (ROOT / page).is_file() and not ((ROOT / name).parent / page).is_file():
                yield Finding(name, line, f"page '{page}' does not exist")


def main(argv: Sequence[str]) -> int:
    """Check the given files, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.architecture.prose")
    parser.add_argument("--report", action="store_true", help="exit with status 0 even if there are findings")
    parser.add_argument("files", nargs="*", help="files or folders to check; all by default")
    options = parser.parse_args(argv)
    wanted = tuple(options.files)
    names = [name for name in tracked() if not wanted or name.startswith(wanted)]
    found = sorted({each for name in names for each in findings(name, (ROOT / name).read_text(encoding="utf-8"))})
    for each in found:
        sys.stdout.write(f"{each}\n")
    if found:
        sys.stdout.write(f"{len(found)} findings in {len(names)} files\n")
    return 1 if found and not options.report else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
