"""Renderings of an evaluation: rows of a table, and one HTML page with inline SVG, which loads nothing else."""

from collections.abc import Sequence

from abtest.templating import DASH
from trainer.evaluation.evaluate import Evaluation, Figure
from trainer.evaluation.intervals import Interval
from trainer.evaluation.plots import Bar, Plot, environment, plot
from trainer.evaluation.propensity import PolicyValue


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
            DASH if row.calibration is None else f"{row.calibration.ece:.4f}",
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
        return DASH
    is_money = name.startswith("gmv")
    spread = "" if value.deviation is None else f" ({_number(value.deviation, is_money=is_money)})"
    return f"{_number(value.mean, is_money=is_money)}{spread}"


def difference(value: Interval | None) -> str:
    """Return a paired difference with its interval.

    >>> difference(Interval(difference=-0.0111, low=-0.0164, high=-0.006, num_visits=9))
    '-.0111 (-.0164 .. -.0060)'
    """
    if value is None:
        return DASH
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
    for labels in dict.fromkeys(row.labels for row in found.rows if row.labels is not None):
        names = ", ".join(row.name for row in found.rows if row.labels == labels)
        sentences.append(
            f"{names}: clicks and orders weigh by inverse examination, in training and in the validation loss that ends"
            f" a fit. {labels.num:,} labels of the training lists are worth {labels.effective:,.1f} of equal weight;"
            f" {labels.num_clipped:,} have the largest weight, learning.max_weight."
        )
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
    return (
        environment()
        .get_template("evaluation.html.jinja")
        .render(
            found=found,
            columns=table_columns(found),
            rows=table_rows(found),
            notes=notes(found),
            plots=[each for each in (learning_curves(found), calibration_curves(found)) if each is not None],
            categories=category_rows(found),
            modalities=modality_bars(found),
            queries=query_bars(found),
        )
    )


def modality_bars(found: Evaluation) -> list[Bar]:
    """Return the weights of the modalities over items, one bar for each model, fusion unit and modality."""
    return [
        Bar(name=f"{row.name}, {each.unit}: {each.modality}", note=f"{each.num_items} items", quartiles=each.quartiles)
        for row in found.rows
        for each in row.modalities
    ]


def query_bars(found: Evaluation) -> list[Bar]:
    """Return the weights of the modalities over queries, one bar for each model, category, unit and modality."""
    return [
        Bar(
            name=f"{row.name}, {each.category or 'unknown'}, {each.unit}: {each.modality}",
            note=f"{each.num_queries} queries, from {each.lowest.weight:.3f} ({each.lowest.query_id})"
            f" to {each.highest.weight:.3f} ({each.highest.query_id})",
            quartiles=each.quartiles,
        )
        for row in found.rows
        for each in row.modalities_by_category
    ]


def category_rows(found: Evaluation) -> list[tuple[str, ...]]:
    """Return ranker, category, lists, ratio of predicted and observed, and ECE, one row for each category."""
    return [
        (
            row.name,
            each.category or "unknown",
            f"{each.num_lists:,}",
            DASH if each.calibration.ratio is None else f"{each.calibration.ratio:.3f}",
            f"{each.calibration.ece:.4f}",
        )
        for row in found.rows
        for each in row.categories
    ]


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
    return plot("Learning curve", "epoch", "validation log loss (nats)", curves, marks=marks) if curves else None


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
    return plot("Calibration", "predicted probability within the list", "share of positive items", curves, marks={})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float, *, is_money: bool) -> str:
    if is_money:
        return f"{value:,.0f}"
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return ("-" if value < 0 else "+") + _number(abs(value), is_money=False)
