"""The truth in the summary and on the report page, from books that are written here by hand."""

import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from deploy.demo import truth_report
from deploy.demo.arms import all_arms
from deploy.demo.summary import Truth
from deploy.simulation.marketplace.truth import ArmTruth, Bounds, PairedGain, VersionTruth
from deploy.simulation.marketplace.truth import Truth as Books

ARMS = all_arms(["armmt"])


def gain(lists: int, shown: float, incoming: float) -> PairedGain:
    found = PairedGain()
    for number in range(lists):
        found.add(shown * (0.9 if number % 2 else 1.1), incoming)
    return found


@pytest.fixture
def books() -> Books:
    return Books(
        arms={
            "shuffle": ArmTruth(queries=4, orders=0.4, money=gain(4, 500.0, 800.0), thirds=[gain(4, 0.1, 0.2)] * 3),
            "armmt": ArmTruth(
                queries=10,
                fallbacks=2,
                orders=2.4,
                money=gain(10, 1_000.0, 800.0),
                thirds=[gain(2, 0.2, 0.2), gain(4, 0.22, 0.2), gain(4, 0.228, 0.2)],
            ),
        },
        versions=[
            VersionTruth(lineage="armmt", version="1", first_ts=1_000, last_ts=2_000, gain=gain(4, 0.22, 0.2)),
            VersionTruth(lineage="armmt", version="3", first_ts=2_000, last_ts=7_200_000, gain=gain(4, 0.228, 0.2)),
        ],
        bounds=Bounds(random=0.67, incoming=1.0, best=1.89),
    )


def test_rows_are_shares_over_the_incoming_order(books: Books) -> None:
    truth = truth_report.truth_of(asdict(books), ARMS)
    assert [arm.arm for arm in truth.arms] == ["shuffle", "armmt"], "an arm without a list has no row"
    armmt = truth.arms[1]
    assert (armmt.searches, armmt.fallbacks) == (10, 2)
    assert armmt.orders_per_100 == pytest.approx(24)
    assert armmt.gmv_minor_per_100 == pytest.approx(100_000)
    assert armmt.gmv_gain == pytest.approx(0.25), "over the same lists, not over another arm's"
    assert armmt.thirds == pytest.approx([0, 0.1, 0.14])
    assert [(v.version, v.lists) for v in truth.versions] == [(1, 4), (3, 4)]
    assert [v.gain for v in truth.versions] == pytest.approx([0.1, 0.14])
    assert truth.now == {"armmt": pytest.approx(0.14)}


def test_one_line_says_where_the_learned_arm_stands(books: Books) -> None:
    truth = truth_report.truth_of(asdict(books), ARMS)
    assert truth_report.line(truth) == "random -33 | incoming 0 | now +14 | best possible +89"
    two = Truth(arms=[], versions=[], random=-0.33, best=None, now={"prm": 0.1, "armmt": -0.02})
    assert truth_report.line(two) == "random -33 | incoming 0 | prm +10 | armmt -2 | best possible undefined"


def test_the_chart_shows_each_version_at_its_time_and_height(books: Books) -> None:
    page = truth_report.section(truth_report.truth_of(asdict(books), ARMS), start_ts=0)
    chart = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    groups = chart.findall("g")
    assert [group.findtext("title") for group in groups] == [
        "armmt v1: +10 % (s.e. +6 %, 4 lists)",
        "armmt v3: +14 % (s.e. +7 %, 4 lists)",
    ]
    spans = [[float(group.findall("line")[0].attrib[name]) for name in ("x1", "x2", "y1")] for group in groups]
    assert spans[0][1] == spans[1][0] < spans[1][1] == truth_report.RIGHT
    assert spans[1][2] < spans[0][2], "a higher gain stands higher"
    texts = [text.text for text in chart.findall("text")]
    assert texts == ["best possible +89 %", "incoming order 0 %", "random order -33 %", "0 h", "1 h", "2 h"]


def test_a_run_without_a_version_has_a_page(books: Books) -> None:
    books.versions.clear()
    page = truth_report.section(truth_report.truth_of(asdict(books), ARMS), start_ts=0)
    assert "random -33 | incoming 0 | now +14 | best possible +89" in page


def test_lists_of_another_experiment_are_refused(books: Books) -> None:
    books.arms["other"] = ArmTruth(queries=1)
    with pytest.raises(ValueError, match="other"):
        truth_report.truth_of(asdict(books), ARMS)
