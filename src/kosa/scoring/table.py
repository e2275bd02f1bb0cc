"""A Score as a table: for a terminal (rich), as plain text, and as HTML for a notebook."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from kosa.scoring.result import Score

_MOST_CLASSES = 10

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def figures(score: Score) -> list[tuple[str, str]]:
    """Each figure's name and value, as shown."""
    perplexity = _number(score.perplexity)
    if math.isinf(score.perplexity) and math.isfinite(score.log_perplexity):
        perplexity += f" (exp {_number(score.log_perplexity)} overflows)"
    return [
        ("rows", f"{score.rows:,}"),
        ("weight Σw", _number(score.weight)),
        ("cross-entropy", f"{_number(score.cross_entropy)} nats"),
        ("its standard error", f"{_number(score.standard_error)} nats"),
        ("bits", _number(score.bits)),
        ("perplexity", perplexity),
        ("accuracy", _percent(score.accuracy)),
        ("entropy of the targets", f"{_number(score.target_entropy)} nats"),
        ("KL divergence", f"{_number(score.kl_divergence)} nats"),
        ("cross-entropy of the class prior", f"{_number(score.prior_cross_entropy)} nats"),
        ("skill against it", _percent(score.skill)),
        ("rows with p = 0 at the target", f"{score.zero_probability_rows:,}"),
        (
            f"cross-entropy, p clipped at {score.clip_name} = {score.clip:.3g}",
            f"{_number(score.clipped_cross_entropy)} nats",
        ),
    ]


def tables(score: Score) -> list[Table]:
    """Title, columns and rows of the tables below the figures; of many classes only the worst are shown."""
    seen = [entry for entry in score.classes if entry.rows]
    if len(seen) > _MOST_CLASSES:
        shown = sorted(seen, key=lambda entry: -_rank(entry.cross_entropy))[:_MOST_CLASSES]
        title = f"Classes: the worst {_MOST_CLASSES} of {len(score.classes):,}"
    else:
        shown, title = seen, "Classes"
        if len(seen) < len(score.classes):
            title = f"Classes: the {len(seen)} of {len(score.classes):,} that have rows"
    classes = [
        [
            entry.name,
            f"{entry.rows:,}",
            _number(entry.weight),
            _number(entry.cross_entropy),
            _percent(entry.accuracy),
        ]
        for entry in shown
    ]
    found: list[Table] = [(title, ("class", "rows", "weight", "loss (nats)", "accuracy"), classes)]
    if score.worst:
        worst = [
            [str(row.id), row.label, _number(row.loss), str(row.predicted), _number(row.probability)]
            for row in score.worst
        ]
        found.append(
            ("Worst rows", ("row or id", "label", "loss (nats)", "predicted", "with probability"), worst)
        )
    return found


def text(score: Score) -> str:
    """Plain text, for `str` and for logs."""
    blocks = [_columns(figures(score))]
    blocks += [f"{title}\n{_columns([heads, *rows])}" for title, heads, rows in tables(score)]
    return "\n\n".join(blocks)


def rich_view(score: Score) -> Any:
    """Tables for a rich console."""
    try:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('tables need rich: pip install "kosa[score]"', name="rich") from error
    # Names come from the user's data, where [brackets] are no markup: Text takes them as they are.
    summary = RichTable(show_header=False, title=f"Score, from {score.predictions}", title_justify="left")
    for name, value in figures(score):
        summary.add_row(Text(name), Text(value))
    views = [summary]
    for title, heads, rows in tables(score):
        view = RichTable(title=title, title_justify="left")
        for head in heads:
            view.add_column(
                head, justify="left" if head in ("class", "row or id", "label", "predicted") else "right"
            )
        for row in rows:
            view.add_row(*(Text(cell) for cell in row))
        views.append(view)
    return Group(*views)


def html(score: Score) -> str:
    """Plain HTML tables; everything from the data is escaped."""
    summary = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in figures(score)
    )
    parts = [f"<table><caption>Score, from {escape(score.predictions)}</caption>{summary}</table>"]
    for title, heads, rows in tables(score):
        header = "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        parts.append(f"<table><caption>{escape(title)}</caption><tr>{header}</tr>{body}</table>")
    return f"<div>{''.join(parts)}</div>"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %" if math.isfinite(value) else str(value)


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value
