"""Renderings of an evaluation: rows of a table, and one HTML page with inline SVG, which loads nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from trainer.evaluation.evaluate import Evaluation, Figure
from trainer.evaluation.intervals import Interval
from trainer.evaluation.propensity import PolicyValue

_TEMPLATES = Path(__file__).parent / "templates"
_DASH = "–"
_WIDTH, _HEIGHT = 640.0, 300.0
_MARGIN = 48.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot, in the coordinates of the picture."""

    name: str
    points: tuple[tuple[float, float], ...]
    mark: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of lines over two axes, with ticks as (place, text)."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def metric_columns(found: Evaluation) -> tuple[str, ...]:
    """Return the metrics of the table, in order."""
    return ("mrr", "gauc", "ndcg@10", "auc", "log_loss", f"orders@{found.k}", f"gmv@{found.k}")


def table_columns(found: Evaluation) -> tuple[str, ...]:
    """Return the names of the columns of `table_rows`."""
    titles = {"mrr": "MRR", "gauc": "GAUC", "ndcg@10": "NDCG@10", "auc": "AUC", "log_loss": "log loss"}
    metrics = [titles.get(name, name.replace("gmv", "GMV")) for name in metric_columns(found)]
    drawn = tuple(f"{name}@{found.k} by propensity" for name in _drawn(found))
    return ("ranker", *metrics, f"MRR - {found.reference} (95 %)", *drawn, "ECE", "seeds")


def table_rows(found: Evaluation) -> list[tuple[str, ...]]:
    """Return the rows of the table, one per ranker."""
    return [
        (
            row.name,
            *(figure(row.figures.get(name), name) for name in metric_columns(found)),
            difference(row.differences.get("mrr")),
            *(drawn(row.policy_values[name]) for name in _drawn(found)),
            _DASH if row.calibration is None else f"{row.calibration.ece:.4f}",
            str(row.num_seeds),
        )
        for row in found.rows
    ]


def figure(value: Figure | None, name: str) -> str:
    """Return a mean, with its standard deviation over seeds in brackets.

    >>> figure(Figure(mean=0.61172, deviation=0.00041), "mrr"), figure(None, "mrr")
    ('.6117 (.0004)', '–')
    """
    if value is None or value.mean is None:
        return _DASH
    is_money = name.startswith("gmv")
    spread = "" if value.deviation is None else f" ({_number(value.deviation, is_money=is_money)})"
    return f"{_number(value.mean, is_money=is_money)}{spread}"


def difference(value: Interval | None) -> str:
    """Return a paired difference with its interval.

    >>> difference(Interval(difference=-0.0111, low=-0.0164, high=-0.006, num_visits=9))
    '-.0111 (-.0164 .. -.0060)'
    """
    if value is None:
        return _DASH
    return f"{_signed(value.difference)} ({_signed(value.low)} .. {_signed(value.high)})"


def drawn(value: PolicyValue) -> str:
    """Return an estimate by propensity with its interval, or how few places it could stand on.

    >>> drawn(PolicyValue(mean=None, low=None, high=None, effective_places=12.3, support=0.9))
    'too few places (12)'
    """
    if value.mean is None or value.low is None or value.high is None:
        return f"too few places ({value.effective_places:.0f})"
    bounds = f"{_number(value.low, is_money=False)} .. {_number(value.high, is_money=False)}"
    return f"{_number(value.mean, is_money=False)} ({bounds}; {value.effective_places:,.0f} places)"


def _drawn(found: Evaluation) -> tuple[str, ...]:
    """Return the labels that have an estimate by propensity."""
    return tuple(found.rows[0].policy_values) if found.rows else ()


def notes(found: Evaluation) -> list[str]:
    """Return the sentences that a reader of the table needs: the data, the lists left out, and the definitions."""
    parts = ", ".join(f"{number:,} {name}" for name, number in found.num_lists.items())
    label = "bought" if found.label == "order" else "clicked"
    left_out = [f"{number} lists: {reason}" for reason, number in found.excluded.items() if number]
    sentences = [
        f"{found.data}: {parts} lists; {found.num_visits:,} test visits; {found.note}.",
        f"{found.num_over_boundary:,} lists of visits that run over a boundary of the split are left out.",
        f"Test lists that metrics leave out: {'; '.join(left_out) or 'none'}. Lists without a positive item count in"
        " orders and money only; lists of one item or of positive items alone are not in GAUC.",
        f"Positive items are those {label}. AUC pools the items of all lists by their probability within the list."
        f" Orders and GMV (minor units) are means per list over the first {found.k} ranks.",
        f"Differences are paired; intervals come from a bootstrap over visits. {found.seeds} seeds per fit; the"
        " standard deviation over seeds stands in brackets.",
    ]
    if _drawn(found):
        support = min(value.support for row in found.rows for value in row.policy_values.values())
        sentences.append(
            f"{found.num_shuffled:,} test lists were shuffled. Figures by propensity estimate labels per list had lists"
            " been shown in the ranker's order (self-normalised; intervals by visit; effective places in brackets)."
            f" They hold no preference for the logged order. Lowest support: {support:.2f} of 1."
        )
    else:
        sentences.append("The log drew no place at random: all figures also measure agreement with the logged order.")
    if found.num_rejected:
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.num_rejected.items())
        sentences.append(f"Sessions that could not be read: {reasons}.")
    if found.num_lost_labels:
        sentences.append(f"{found.num_lost_labels:,} labelled items stand beyond the length that a model reads.")
    return sentences


def page(found: Evaluation) -> str:
    """Return the evaluation as one self-contained HTML page.

    Guarantees: the same evaluation gives the same bytes.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("evaluation.html.jinja").render(
        found=found,
        columns=table_columns(found),
        rows=table_rows(found),
        notes=notes(found),
        plots=[plot for plot in (learning_curves(found), calibration_curves(found)) if plot is not None],
        modalities=[(row.name, each) for row in found.rows for each in row.modalities],
        bounds=(_MARGIN, _WIDTH, _HEIGHT),
    )


def learning_curves(found: Evaluation) -> Plot | None:
    """Return the validation loss by epoch of each model, mean over the seeds that reached the epoch."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        depth = max((len(epochs) for epochs in row.epochs), default=0)
        if depth:
            curves[row.name] = [
                (float(number + 1), _mean([own[number].validation_loss for own in row.epochs if len(own) > number]))
                for number in range(depth)
            ]
    marks = {row.name: _mean([float(best) for best in row.best_epochs]) for row in found.rows if row.epochs}
    return _plot("Learning curve", "epoch", "validation log loss (nats)", curves, marks) if curves else None


def calibration_curves(found: Evaluation) -> Plot | None:
    """Return observed against predicted probability, by bin, of each model, with the diagonal."""
    curves = {
        row.name: [(each.predicted, each.observed) for each in row.calibration.bins]
        for row in found.rows
        if row.calibration is not None
    }
    if not curves:
        return None
    top = max(max(point) for points in curves.values() for point in points)
    curves["equal"] = [(0.0, 0.0), (top, top)]
    return _plot("Calibration", "predicted probability within the list", "share of positive items", curves, {})


def _plot(
    title: str,
    x_title: str,
    y_title: str,
    curves: dict[str, list[tuple[float, float]]],
    marks: dict[str, float],
) -> Plot:
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1.0)
        up = (y - y_low) / ((y_high - y_low) or 1.0)
        return (
            round(_MARGIN + across * (_WIDTH - 2 * _MARGIN), 2),
            round(_HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN), 2),
        )

    lines = []
    for name, points in curves.items():
        mark = None
        if name in marks:
            nearest = min(points, key=lambda point, at=marks[name]: abs(point[0] - at))  # type: ignore[misc]
            mark = place(*nearest)
        lines.append(Line(name=name, points=tuple(place(*point) for point in points), mark=mark))
    steps = range(5)
    return Plot(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=tuple(lines),
        x_ticks=tuple((place(x, y_low)[0], f"{x:.3g}") for x in (x_low + k * (x_high - x_low) / 4 for k in steps)),
        y_ticks=tuple((place(x_low, y)[1], f"{y:.3g}") for y in (y_low + k * (y_high - y_low) / 4 for k in steps)),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float, *, is_money: bool) -> str:
    if is_money:
        return f"{value:,.0f}"
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return ("-" if value < 0 else "+") + _number(abs(value), is_money=False)
