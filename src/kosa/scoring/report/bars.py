"""Tables with bars in them: the figures and their picture in one, for the eye and for a screen reader alike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kosa.scoring.report.markup import Markup, element, join
from kosa.scoring.report.numbers import number
from kosa.scoring.report.scales import round_ticks

Place = Callable[[float], float]
Tick = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """One line: a bar from `start` to `end`, a whisker over its interval, and the figures beside it.

    cells: what the columns after the bar say, the first of them the value itself.  style: "bar rows",
    "bar loss", "bar good" or "bar bad".
    """

    name: Markup
    start: float
    end: float
    cells: Sequence[str]
    interval: tuple[float, float] | None = None
    style: str = "bar rows"


@dataclass(frozen=True)
class BarTable:
    """Lines under one axis. heads: the name's, the axis' and the cells'.  mark: (words, value) of a line through all."""

    caption: str
    heads: Sequence[str]
    bars: Sequence[Bar]
    mark: tuple[str, float] | None = None

    def domain(self) -> list[float]:
        """Round values that cover every bar and the mark; whiskers may end outside."""
        ends = [value for bar in self.bars for value in (bar.start, bar.end) if math.isfinite(value)]
        if self.mark is not None and math.isfinite(self.mark[1]):
            ends.append(self.mark[1])
        low, high = min(0.0, *ends, 0.0), max(0.0, *ends, 0.0)
        return round_ticks(low, high, 4)


def bar_table(table: BarTable, tick: Tick) -> Markup:
    """The table. `tick` writes a value of the axis."""
    ticks = table.domain()
    low, high = ticks[0], ticks[-1]

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    head = element(
        "tr",
        _head(table.heads[0], "name"),
        element(
            "th",
            element("span", table.heads[1], class_="axis-name"),
            _axis(ticks, at, tick, table.mark),
            scope="col",
            role="columnheader",
            class_="plotted",
        ),
        *(_head(words, "figure") for words in table.heads[2:]),
        role="row",
    )
    lines = [_line(bar, table, ticks, at) for bar in table.bars]
    return element(
        "table",
        element("caption", table.caption),
        element("thead", head, role="rowgroup"),
        element("tbody", *lines, role="rowgroup"),
        class_="bars",
        role="table",
    )


def plain_table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], style: str = "plain"
) -> Markup:
    """A table of figures; the first column names the line."""
    head = element(
        "tr", *(_head(words, "figure" if at else "name") for at, words in enumerate(heads)), role="row"
    )
    lines = [
        element(
            "tr",
            element("th", row[0], scope="row", role="rowheader", class_="name"),
            *(_cell(cell, words) for cell, words in zip(row[1:], heads[1:], strict=True)),
            role="row",
        )
        for row in rows
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", head, role="rowgroup"),
        element("tbody", *lines, role="rowgroup"),
        class_=style,
        role="table",
    )


def _line(bar: Bar, table: BarTable, ticks: Sequence[float], at: Place) -> Markup:
    return element(
        "tr",
        element("th", bar.name, scope="row", role="rowheader", class_="name"),
        element("td", _drawn(bar, table, ticks, at), role="cell", class_="plotted"),
        *(
            _cell(cell, words, "figure value" if not place else "figure")
            for place, (cell, words) in enumerate(zip(bar.cells, table.heads[2:], strict=True))
        ),
        role="row",
    )


def _drawn(bar: Bar, table: BarTable, ticks: Sequence[float], at: Place) -> Markup:
    """The bar in shares of its cell's width, whatever that is."""
    parts = [_upright(at(value), "0", "100%", "grid" if value else "base") for value in ticks]
    if math.isfinite(bar.end):
        low, high = sorted((at(bar.start), at(bar.end)))
        parts.append(
            _share("rect", x=low, width=max(0.3, high - low), y="22%", height="56%", class_=bar.style)
        )
    else:
        parts.append(_share("rect", x=0.0, width=100.0, y="22%", height="56%", class_="bar bad"))
    if bar.interval is not None and all(math.isfinite(value) for value in bar.interval):
        low, high = (at(value) for value in bar.interval)
        parts.append(_share("line", x1=low, x2=high, y1="50%", y2="50%", class_="whisker"))
        parts += [_upright(end, "32%", "68%", "whisker") for end in (low, high) if 0 < end < 100]
    if table.mark is not None and math.isfinite(table.mark[1]):
        parts.append(_upright(at(table.mark[1]), "0", "100%", "mark"))
    return element("svg", join(*parts), aria_hidden="true", class_="cell")


def _axis(ticks: Sequence[float], at: Place, tick: Tick, mark: tuple[str, float] | None) -> Markup:
    shown = ticks if len(ticks) <= 5 else ticks[:: 2 if len(ticks) % 2 else len(ticks) - 1]
    parts, bottom = [], 12
    if mark is not None and math.isfinite(mark[1]):
        place, bottom = at(mark[1]), 28
        anchor = "start" if place < 25 else "end" if place > 75 else "middle"
        words = f"{mark[0]} {number(mark[1], 3)}"
        parts.append(element("text", words, x=f"{place:.2f}%", y="11", class_="mark", text_anchor=anchor))
    for value in shown:
        place = at(value)
        anchor = "start" if place < 5 else "end" if place > 95 else "middle"
        parts.append(
            element("text", tick(value), x=f"{place:.2f}%", y=bottom, class_="tick", text_anchor=anchor)
        )
    return element("svg", join(*parts), aria_hidden="true", class_="axis" if bottom == 12 else "axis marked")


def _share(name: str, **attributes: str | float) -> Markup:
    """An element whose numbers are percent of the cell."""
    return element(
        name,
        **{key: value if isinstance(value, str) else f"{value:.2f}%" for key, value in attributes.items()},
    )


def _upright(place: float, top: str, bottom: str, style: str) -> Markup:
    return _share("line", x1=place, x2=place, y1=top, y2=bottom, class_=style)


def _head(words: str, style: str) -> Markup:
    return element("th", words, scope="col", role="columnheader", class_=style)


def _cell(cell: str, head: str, style: str = "figure") -> Markup:
    # On a phone the lines are stacked, and each figure says its own name.
    return element("td", element("span", cell), role="cell", class_=style, data_head=head)
