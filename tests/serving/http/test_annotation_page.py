"""The page of annotators loads nothing, and its policy allows its own script and style alone."""

import base64
import hashlib
import re

from serving.http.annotation_page import page

HTML = page().content.decode()


def test_the_policy_names_the_script_and_the_style_of_the_page() -> None:
    policy = page().headers["Content-Security-Policy"]
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; connect-src 'self';")
    assert "unsafe" not in policy


def test_the_page_names_no_other_address_and_writes_no_markup() -> None:
    assert re.findall(r"https?:|src=|<link|@import|url\(|\son\w+=|style=", HTML) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", HTML) == []


def test_every_control_has_a_name() -> None:
    assert '<html lang="en">' in HTML
    assert len(re.findall(r"<label>[^<]+<input", HTML)) == len(re.findall(r"<input", HTML)) == 2
    assert re.findall(r'role="status"', HTML)
