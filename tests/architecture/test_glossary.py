"""The glossary defines each term once."""

import re
from collections import Counter
from pathlib import Path

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_each_term_stands_once() -> None:
    terms = re.findall(r"^\| ([^|]+?) \|", GLOSSARY.read_text(), re.MULTILINE)
    assert len(terms) > 100
    assert [term for term, count in Counter(terms).items() if count > 1 and term != "term"] == []
