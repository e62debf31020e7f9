"""The page of an experiment in Chromium: nothing is cut off on a wide screen, and on a telephone."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from abtest.experiment import Arm
from abtest.page import page_html
from abtest.plan import Plan
from abtest.report import decide, report
from abtest.results import Report
from abtest.store import ExperimentStore
from deploy.migrations import upgrade
from stream import db
from tests.harness.chromium import FLAGS, program
from tests.harness.generated_facts import ARMS, append, fill, generate
from tests.harness.sessions import make_session

pytestmark = pytest.mark.system

# In the title: widths of the window and of the content, how much reaches beyond the window without a scroll bar, and
# how many p-values are broken into two lines.
PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(each => { each.open = true });
  const cut = [...document.querySelectorAll("td, th, dd, p, li, text")].filter(each => {
    const box = each.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !each.closest(".scroll");
  });
  const broken = [...document.querySelectorAll('td[data-label="p"]')].filter(each => {
    const range = document.createRange();
    range.selectNodeContents(each);
    return new Set([...range.getClientRects()].map(box => box.top)).size > 1;
  });
  document.title = `${innerWidth} ${document.documentElement.scrollWidth} ${cut.length} ${broken.length}`;
})</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    return program()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    upgrade.upgrade(url)
    opened = db.create(url)
    yield opened
    opened.dispose()


def reports(engine: Engine) -> Report:
    """Report on four arms with long names and adjusted lifts, after several reports."""
    names = ("control", "armmt-with-images-and-text", "prm-with-click-weights", "shuffled-control-group")
    arms = [Arm(name=name, lineage=f"lineage-{name}", is_control=not number) for number, name in enumerate(names)]
    sessions, _ = generate(seed=23, num_clients=1_600)
    for number, each in enumerate(sessions):
        arm = names[int(each.client_id[1:]) % 4]
        each.assignment = make_session("q", "c", arm=arm).assignment
        sessions[number] = each
    plan = Plan(min_buyers=20, looks=7, clients=2_000, mde=0.05, cuped_days=2.0)
    fill(engine, sessions[:2_000], arms=arms, plan=plan, matured_ts=21_000)
    report(engine, "first")
    append(engine, sessions[2_000:], matured_ts=900_000, watermark_ts=86_400_000)
    found = decide(engine, "first")
    small = tuple(each if each.cs_p is None else replace(each, cs_p=1.7e-05) for each in found.results)
    return replace(found, results=small, caveats=("A caveat in words. " * 20,))


@pytest.mark.parametrize("width", [500, 1_200])
@pytest.mark.parametrize("content", ["four arms", "nothing"])
def test_nothing_is_cut_off(engine: Engine, tmp_path: Path, chromium: str, width: int, content: str) -> None:
    if content == "nothing":
        ExperimentStore(engine).create(key="first", arms=ARMS, now_ts=0)
    found = reports(engine) if content == "four arms" else report(engine, "first")
    assert bool(found.adjusted) == (content == "four arms")
    page = tmp_path / "page.html"
    page.write_text(page_html(found).replace("</body>", PROBE + "</body>"))
    dump = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000", "--dump-dom"]
    shown = subprocess.run([*dump, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", shown)
    assert title is not None, shown[:500]
    assert [int(number) for number in title.groups()] == [width, width, 0, 0]
