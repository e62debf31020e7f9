import re
import tomllib
from xml.etree import ElementTree

import msgspec

from trainer.configs import LearningSettings
from trainer.examination import render
from trainer.examination.curve import Curve, Positions, given

FOUND = Curve(
    data="<log>",
    method="swaps",
    positions=(
        Positions(first=1, last=1, examination=1.0, low=1.0, high=1.0, effective_clicks=50, num_rows=90, num_clicks=40),
        Positions(
            first=2, last=5, examination=0.4123, low=0.3, high=0.55, effective_clicks=21.4, num_rows=360, num_clicks=31
        ),
    ),
    num_lists=1_200,
    num_visits=600,
    num_clicks=71,
    num_beyond=3,
    left_out={"without propensities": 9},
)


def test_the_table_has_an_interval_for_each_estimate() -> None:
    assert render.table_rows(FOUND)[1] == ("2-5", "0.412", "0.300 .. 0.550", "21", "360", "31")
    assert render.table_rows(given([1.0, 0.5], "file"))[1] == ("2", "0.500", "–", "–", "–", "–")
    assert len(render.COLUMNS) == 6


def test_the_notes_name_the_data_and_what_they_lack() -> None:
    text = " ".join(render.notes(FOUND))
    for words in ("1,200 lists of 600 visits", "71 clicked", "9 lists left out: without propensities", "3 positions"):
        assert words in text
    assert "bootstrap" not in " ".join(render.notes(given([1.0], "file")))


def test_the_plot_has_the_middle_of_each_group_and_its_interval() -> None:
    (line, _) = render.curve_plot(FOUND).lines
    assert [x for x, _ in line.points] == [x for x, _, _ in line.bars]
    # A picture counts from its top.
    assert all(top <= y <= bottom for (_, y), (_, top, bottom) in zip(line.points, line.bars, strict=True))
    assert line.bars[1][1] < line.points[1][1] < line.bars[1][2]


def test_the_page_stands_alone() -> None:
    page = render.page(FOUND)
    assert page == render.page(FOUND)
    assert "&lt;log&gt;" in page
    assert "<log>" not in page
    assert not re.search(r"(src|href)=|https?://", page)
    (picture,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    ElementTree.fromstring(picture)
    assert picture.count('stroke-opacity="0.5"') == 2


def test_the_settings_are_read_by_learning() -> None:
    values = tomllib.loads(render.setting(FOUND))["learning"]
    learning = msgspec.convert(values, LearningSettings)
    assert learning.examination == (1.0, 0.4123, 0.4123, 0.4123, 0.4123)
