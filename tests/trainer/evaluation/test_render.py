import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from trainer.evaluation import render
from trainer.evaluation.calibration import Calibration, CalibrationBin, CategoryCalibration
from trainer.evaluation.evaluate import Evaluation, Figure, Row
from trainer.evaluation.intervals import Interval
from trainer.evaluation.modalities import CategoryWeights, ModalityWeights, QueryWeight
from trainer.evaluation.neural import Epoch, LabelWeights
from trainer.evaluation.propensity import PolicyValue

EPOCHS = tuple(Epoch(number=number, train_loss=3.0 / number, validation_loss=2.0 / number) for number in (1, 2, 3))
FOUND = Evaluation(
    data="<log>",
    note="a note",
    label="order",
    num_lists={"train": 6, "validation": 2, "test": 1_200},
    num_visits=600,
    num_over_boundary=3,
    excluded={"no positive item": 5, "one item": 0, "only positive items": 1},
    num_rejected={"feature_schema": 4},
    num_shuffled=0,
    num_lost_labels=7,
    reference="displayed order",
    seeds=2,
    k=5,
    rows=(
        Row(
            name="displayed order",
            kind="order",
            num_seeds=1,
            figures={"mrr": Figure(mean=0.45429), "gauc": Figure(mean=None), "gmv@5": Figure(mean=6580.6)},
        ),
        Row(
            name="armmt",
            kind="model",
            num_seeds=2,
            figures={"mrr": Figure(mean=0.60101, deviation=0.00132), "log_loss": Figure(mean=1.98, deviation=0.01)},
            differences={"mrr": Interval(difference=0.1467, low=0.13, high=0.163, num_visits=600)},
            calibration=Calibration(
                ratio=1.0,
                ece=0.0021,
                bins=(
                    CalibrationBin(num_items=5, predicted=0.1, observed=0.05),
                    CalibrationBin(num_items=5, predicted=0.6, observed=0.7),
                ),
            ),
            categories=(
                CategoryCalibration(
                    category="", num_lists=1_200, calibration=Calibration(ratio=0.98, ece=0.01234, bins=())
                ),
                CategoryCalibration(
                    category="shoes", num_lists=8, calibration=Calibration(ratio=None, ece=0.1, bins=())
                ),
            ),
            epochs=(EPOCHS, EPOCHS[:2]),
            best_epochs=(3, 2),
            num_weights=78_431,
            modalities=(ModalityWeights(unit="cafu_item", modality="image", num_items=9, quartiles=(0.2, 0.4, 0.5)),),
            modalities_by_category=(
                CategoryWeights(
                    unit="cafu_item",
                    modality="text",
                    category="<shoes>",
                    num_queries=3,
                    quartiles=(0.1, 0.3, 0.6),
                    lowest=QueryWeight(query_id="q-7", weight=0.05),
                    highest=QueryWeight(query_id="q-8", weight=0.75),
                ),
            ),
        ),
    ),
)


def test_the_table_has_one_row_per_ranker_with_spread_and_interval() -> None:
    columns, (displayed, armmt) = render.table_columns(FOUND), render.table_rows(FOUND)
    assert len(columns) == len(displayed) == len(armmt)
    assert dict(zip(columns, displayed, strict=True)) == {
        "ranker": "displayed order",
        "MRR": ".4543",
        "GAUC": "–",
        "NDCG@10": "–",
        "AUC": "–",
        "log loss": "–",
        "orders@5": "–",
        "GMV@5": "6,581",
        "MRR - displayed order (95 %)": "–",
        "ECE": "–",
        "seeds": "1",
    }
    assert armmt[1] == ".6010 (.0013)"
    assert armmt[8] == "+.1467 (+.1300 .. +.1630)"
    assert armmt[5] == "1.9800 (.0100)"


def test_the_notes_name_what_was_left_out() -> None:
    text = " ".join(render.notes(FOUND))
    for words in (
        "<log>: 6 train, 2 validation, 1,200 test lists",
        "3 lists of visits",
        "5 lists: no positive item; 1 lists: only positive items",
        "those bought",
        "4 feature_schema",
        "7 labelled items",
    ):
        assert words in text
    assert "one item" not in text.split("Lists without")[0].split("leave out:")[1]


def test_the_page_stands_alone_and_its_plots_are_well_formed() -> None:
    page = render.page(FOUND)
    assert page == render.page(FOUND)
    assert "&lt;log&gt;" in page
    assert "<log>" not in page
    assert not re.search(r"(src|href)=|https?://", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert "cafu_item: image" in page
    assert "armmt, &lt;shoes&gt;, cafu_item: text" in page
    assert "3 queries, from 0.050 (q-7) to 0.750 (q-8)" in page


def test_curves_are_means_over_the_seeds_that_reached_an_epoch() -> None:
    plot = render.learning_curves(FOUND)
    assert plot is not None
    (line,) = plot.lines
    assert len(line.points) == 3
    # The loss falls, and a picture counts from its top.
    assert [y for _, y in line.points] == sorted(y for _, y in line.points)
    assert line.mark == line.points[1]
    found = render.calibration_curves(FOUND)
    assert found is not None
    assert [each.name for each in found.lines] == ["armmt", "equal"]


def test_figures_by_propensity_have_columns_where_the_log_holds_them() -> None:
    value = PolicyValue(mean=0.25, low=0.2, high=0.3, effective_places=1_234.4, support=0.97)
    rows = tuple(replace(row, policy_values={"clicks": value}) for row in FOUND.rows)
    found = replace(FOUND, rows=rows, num_shuffled=400)
    at = render.table_columns(found).index("clicks@5 by propensity")
    assert [row[at] for row in render.table_rows(found)] == [".2500 (.2000 .. .3000; 1,234 places)"] * 2
    text = " ".join(render.notes(found))
    assert "400 test lists were shuffled" in text
    assert "Lowest support: 0.97" in text
    assert "drew no place at random" in " ".join(render.notes(FOUND))


def test_the_notes_say_what_weighted_labels_are_worth() -> None:
    labels = LabelWeights(num=1_234, effective=456.78, num_clipped=9)
    found = replace(FOUND, rows=tuple(replace(row, labels=labels) for row in FOUND.rows))
    (note,) = [each for each in render.notes(found) if "inverse examination" in each]
    assert note.startswith(", ".join(row.name for row in FOUND.rows))
    assert "1,234 labels of the training lists are worth 456.8 of equal weight; 9 have the largest" in note
    assert "inverse examination" not in " ".join(render.notes(FOUND))


def test_the_page_has_the_calibration_of_each_category() -> None:
    assert render.category_rows(FOUND) == [
        ("armmt", "unknown", "1,200", "0.980", "0.0123"),
        ("armmt", "shoes", "8", "–", "0.1000"),
    ]
    assert "<td>shoes</td>" in render.page(FOUND)
    assert "by query category" not in render.page(replace(FOUND, rows=FOUND.rows[:1]))


def test_without_models_there_are_no_plots() -> None:
    only = Evaluation(**{name: getattr(FOUND, name) for name in FOUND.__slots__} | {"rows": FOUND.rows[:1]})
    assert render.learning_curves(only) is render.calibration_curves(only) is None
    assert "<svg" not in render.page(only)


@pytest.mark.parametrize(("value", "text"), [(-0.25, "-.2500"), (1.5, "+1.5000"), (10.5, "+10.5000"), (0.0, "+.0000")])
def test_differences_keep_all_digits(value: float, text: str) -> None:
    interval = Interval(difference=value, low=value, high=value, num_visits=1)
    assert render.difference(interval) == f"{text} ({text} .. {text})"
