"""A Score as a table: for a terminal (rich), and as plain text."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from kosa.scoring.report.markup import visible
from kosa.scoring.scores import ClassScore, Comparison, Figures, GroupScore
from kosa.scoring.tokens import KIND

_MOST_CLASSES = 10
_MOST_CONFUSIONS = 5

_LONGEST = 200  # characters of a name
_NAMES = ("class", "group", "row or id", "label", "predicted", "figure")

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def figures(score: Figures) -> list[tuple[str, str]]:
    """Each figure's name and value, as shown."""
    each = "tokens" if score.predictions == KIND else "rows"
    over = each if score.interval_over == "rows" else f"groups of {score.interval_over}"
    split = score.loss_split
    found = [
        (each, f"{score.rows:,}"),
        ("weight Σw", _number(score.weight)),
        ("cross-entropy", f"{_number(score.cross_entropy)} nats"),
        ("its standard error", f"{_number(score.standard_error)} nats, over {score.clusters:,} {over}"),
        (f"{100 * score.confidence:.12g} % interval", f"{_number(score.low)} to {_number(score.high)} nats"),
        ("bits", _number(score.bits)),
        ("perplexity", _perplexity(score.perplexity, score.log_perplexity)),
    ]
    for unit in score.per:
        perplexity = _perplexity(unit.perplexity, unit.cross_entropy)
        value = f"{_number(unit.cross_entropy)} nats, {_number(unit.bits)} bits, perplexity {perplexity}"
        found.append((f"by {unit.unit}, of {_number(unit.units)}", value))
    found.append(("accuracy", _percent(score.accuracy)))
    found += [(f"target among the first {top.k}", _percent(top.accuracy)) for top in score.top]
    found += [
        ("entropy of the targets", f"{_number(score.target_entropy)} nats"),
        ("KL divergence", f"{_number(score.kl_divergence)} nats"),
        ("cross-entropy of the class prior", f"{_number(score.prior_cross_entropy)} nats"),
        ("skill against it", _percent(score.skill)),
        ("miscalibration, that is + to it", f"{_number(split.miscalibration)} nats"),
        ("discrimination, that is − to it", f"{_number(split.discrimination)} nats"),
        ("Brier score", _number(score.brier)),
        (f"calibration error, {len(score.bins)} bins of confidence", _percent(score.calibration_error)),
    ]
    if score.temperature is not None:
        best = score.temperature
        edge = ", where the range ends" if best.at_edge else ""
        value = f"{_number(best.temperature)}{edge}, gaining {_number(best.gain)} nats"
        if math.isnan(best.temperature):
            value = "none: a loss is not finite"
        found.append(("temperature of least loss", value))
    found += [
        (f"{each} with p = 0 at the target", f"{score.zero_probability_rows:,}"),
        (
            f"cross-entropy, p clipped at {score.clip_name} = {score.clip:.3g}",
            f"{_number(score.clipped_cross_entropy)} nats",
        ),
    ]
    if score.predictions == KIND:  # what was predicted is not known: nothing is said of it
        found = [entry for entry in found if not entry[1].startswith("nan")]
    return found


def _perplexity(value: float, logarithm: float) -> str:
    if math.isinf(value) and math.isfinite(logarithm):
        return f"{_number(value)} (exp {_number(logarithm)} overflows)"
    return _number(value)


def tables(score: Figures) -> list[Table]:
    """Title, columns and rows of the tables below the figures; of many classes only the worst are shown."""
    found = [] if score.against is None else _compared(score.against)
    if score.classes:
        found.append(_parts("Classes", "class", score.classes))
    if score.groups:
        found.append(_parts(f"Groups of {score.group}", "group", score.groups))
    if score.confusions:
        confusions = [
            [entry.label, entry.predicted, f"{entry.rows:,}", _number(entry.loss), _percent(entry.share)]
            for entry in score.confusions[:_MOST_CONFUSIONS]
        ]
        title = f"Confusions: the {len(confusions)} of {score.confused_pairs:,} that cost the most"
        found.append((title, ("label", "predicted", "rows", "loss (nats)", "of the loss"), confusions))
    if score.worst and score.predictions == KIND:
        tokens = [[str(row.id), _number(row.loss)] for row in score.worst]
        found.append(("Worst tokens", ("row or id", "loss (nats)"), tokens))
    elif score.worst:
        worst = [
            [str(row.id), row.label, _number(row.loss), str(row.predicted), _number(row.probability)]
            for row in score.worst
        ]
        found.append(
            ("Worst rows", ("row or id", "label", "loss (nats)", "predicted", "with probability"), worst)
        )
    return found


def _compared(against: Comparison) -> list[Table]:
    """The comparison with B: the whole, and where A wins and loses."""
    over = "rows" if against.interval_over == "rows" else f"groups of {against.interval_over}"
    whole = [
        ["loss of A − loss of B", f"{_number(against.difference)} nats"],
        ["its standard error", f"{_number(against.standard_error)} nats, over {against.clusters:,} {over}"],
        [
            f"{100 * against.confidence:.12g} % interval",
            f"{_number(against.low)} to {_number(against.high)} nats",
        ],
        ["cross-entropy of B", f"{_number(against.score.cross_entropy)} nats"],
        ["A better, equal, B better", ", ".join(map(_percent, (against.wins, against.ties, against.losses)))],
    ]
    found: list[Table] = [(f"Against {against.name}", ("figure", "value"), whole)]
    for kind, pairs in (("class", against.classes), ("group", against.groups)):
        seen = [pair for pair in pairs if pair.rows]
        if len(seen) < 2:
            continue
        shown = sorted(seen, key=lambda pair: -abs(pair.contribution))[:_MOST_CLASSES]
        shown.sort(key=lambda pair: pair.contribution)
        rows = [
            [
                pair.name,
                f"{pair.rows:,}",
                _number(pair.difference),
                _number(pair.contribution),
                _percent(pair.wins),
            ]
            for pair in shown
        ]
        title = f"Where A wins and loses, by {kind}"
        if len(shown) < len(seen):
            title += f": the {len(shown)} of {len(seen):,} that matter most"
        found.append((title, (kind, "rows", "A − B (nats)", "adds (nats)", "A better"), rows))
    return found


def _parts(title: str, kind: str, entries: Sequence[ClassScore] | Sequence[GroupScore]) -> Table:
    """Classes or groups; of many only the worst."""
    seen = [entry for entry in entries if entry.rows]
    shown = seen
    if len(seen) > _MOST_CLASSES:
        shown = sorted(seen, key=lambda entry: -_rank(entry.cross_entropy))[:_MOST_CLASSES]
        title += f": the worst {_MOST_CLASSES} of {len(entries):,}"
    elif len(seen) < len(entries):
        title += f": the {len(seen)} of {len(entries):,} that have rows"
    rows = [
        [
            entry.name,
            f"{entry.rows:,}",
            _number(entry.weight),
            _number(entry.cross_entropy),
            _percent(entry.accuracy),
        ]
        for entry in shown
    ]
    heads = (kind, "rows", "weight", "loss (nats)", "accuracy")
    if all(math.isnan(entry.accuracy) for entry in shown):
        return title, heads[:-1], [row[:-1] for row in rows]
    return title, heads, rows


def text(score: Figures) -> str:
    """Plain text, for `str` and for logs."""
    blocks = [_columns(_shown(figures(score)))]
    for title, heads, rows in tables(score):
        blocks.append(f"{_visible(title)}\n{_columns([heads, *_shown(rows)])}")
    return "\n\n".join(blocks)


def rich_view(score: Figures) -> Any:
    """Tables for a rich console."""
    try:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('tables need rich: pip install "kosa[score]"', name="rich") from error
    # Names come from the user's data, where [brackets] are no markup: Text takes them as they are.
    summary = RichTable(show_header=False, title=f"Score, from {score.predictions}", title_justify="left")
    for name, value in _shown(figures(score)):
        summary.add_row(Text(name), Text(value))
    views = [summary]
    for title, heads, rows in tables(score):
        view = RichTable(title=Text(_visible(title)), title_justify="left")
        for head in heads:
            view.add_column(head, justify="left" if head in _NAMES else "right")
        for row in _shown(rows):
            view.add_row(*(Text(cell) for cell in row))
        views.append(view)
    return Group(*views)


def _shown(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[_visible(cell) for cell in row] for row in rows]


def _visible(cell: str) -> str:
    """Names come from the user's data, where an escape sequence would command the terminal."""
    return visible(cell, _LONGEST)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _width(cell: str) -> int:
    """Columns of a terminal: Chinese and Japanese letters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in cell
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %" if math.isfinite(value) else str(value)


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value
