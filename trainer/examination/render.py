"""Renderings of an examination curve: rows of a table, settings, and one HTML page with inline SVG."""

from pathlib import Path

from abtest.templating import DASH
from trainer.evaluation.plots import Plot, environment, plot
from trainer.examination.curve import Curve, Positions

_TEMPLATES = Path(__file__).parent / "templates"
COLUMNS = ("position", "examination", "95 %", "effective clicks", "items shown", "clicks")

_METHODS = {
    "shuffle": "Lists in which each item could stand at each position with one chance; strata by incoming position.",
    "swaps": "Lists in which pairs of items changed places with a logged chance; strata by position before the swap.",
    "em": "Items that one query showed at several positions; clicks and examination by expectation maximisation.",
    "file": "A curve that was given.",
}


def table_rows(curve: Curve) -> list[tuple[str, ...]]:
    """Return the rows of the table, one for each estimate."""
    return [
        (
            _range(each),
            f"{each.examination:.3f}",
            DASH if each.low is None or each.high is None else f"{each.low:.3f} .. {each.high:.3f}",
            DASH if each.effective_clicks is None else f"{each.effective_clicks:,.0f}",
            f"{each.num_rows:,}" if each.num_rows else DASH,
            f"{each.num_clicks:,}" if each.num_rows else DASH,
        )
        for each in curve.positions
    ]


def notes(curve: Curve) -> list[str]:
    """Return the sentences that a reader of the curve needs."""
    sentences = [_METHODS[curve.method], "Examination is relative to the first position."]
    if curve.method == "file":
        return sentences
    sentences.append(
        f"{curve.num_lists:,} lists of {curve.num_visits:,} visits with {curve.num_clicks:,} clicked items."
        " Intervals come from a bootstrap over visits."
    )
    sentences += [f"{number:,} lists left out: {reason}." for reason, number in sorted(curve.left_out.items())]
    if curve.num_beyond:
        last = curve.positions[-1].last
        sentences.append(
            f"{curve.num_beyond} positions behind {last} have no estimate: no item compares them with others."
        )
    return sentences


def setting(curve: Curve) -> str:
    """Return the settings that make a lineage learn by the curve, in TOML."""
    values = ", ".join(str(value) for value in curve.values())
    return f"[learning]\nexamination = [{values}]\n"


def curve_plot(curve: Curve) -> Plot:
    """Return the plot of the curve with its intervals; an estimate for several positions stands at their middle."""
    middles = [((each.first + each.last) / 2, each) for each in curve.positions]
    return plot(
        "Examination by position",
        "position",
        "examination relative to the first position",
        {curve.method: [(middle, each.examination) for middle, each in middles], "none": [(middles[0][0], 0.0)]},
        marks={},
        intervals={
            curve.method: [
                (middle, each.low, each.high)
                for middle, each in middles
                if each.low is not None and each.high is not None
            ]
        },
    )


def page(curve: Curve) -> str:
    """Return the curve as one self-contained HTML page.

    Guarantees: the same curve gives the same bytes.
    """
    return (
        environment(_TEMPLATES)
        .get_template("examination.html.jinja")
        .render(
            curve=curve,
            plot=curve_plot(curve),
            columns=COLUMNS,
            rows=table_rows(curve),
            notes=notes(curve),
            setting=setting(curve),
        )
    )


def _range(each: Positions) -> str:
    return str(each.first) if each.first == each.last else f"{each.first}-{each.last}"
