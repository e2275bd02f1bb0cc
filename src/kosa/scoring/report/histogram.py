"""The losses of all rows as a picture: how many rows have such a loss, and how much of the whole they carry."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kosa.scoring.report.markup import Markup
from kosa.scoring.report.numbers import NARROW, number, percent, tick
from kosa.scoring.report.scales import Linear, Log, round_ticks
from kosa.scoring.report.svg import Ids, box, drawing, group, length, line, text
from kosa.scoring.report.words import Speaker

_PROBABILITIES = (0.9999, 0.999, 0.99, 0.9, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)
_LEFT, _RIGHT, _END = 46.0, 8.0, 16.0  # margins, and the width of the bars at the ends
_UPPER, _LOWER, _BETWEEN, _TOP, _BOTTOM = 130.0, 74.0, 24.0, 52.0, 42.0


@dataclass(frozen=True)
class Losses:
    """Shares of the weight, and of Σ w·loss, by loss.

    edges: B+1 ascending losses, by equal factors.  rows, loss: (B,) shares.  below, below_loss: shares of
    rows under the first edge.  infinite: share of rows whose loss is infinite or NaN; `loss` is then empty.
    marks: (word, loss, digits) of what is pointed out.  certain: whether targets are labels, so that
    exp(−loss) is the probability of the label.
    """

    edges: Sequence[float]
    rows: Sequence[float]
    loss: Sequence[float]
    below: float
    below_loss: float
    infinite: float
    marks: Sequence[tuple[str, float, int]]
    certain: bool


def histogram(found: Losses, width: float, say: Speaker, ids: Ids) -> Markup:
    """Rows above the axis of losses, their share of the whole loss below it."""
    left = _LEFT + (_END + 8 if found.below > 0 else 0)
    right = width - _RIGHT - (_END + 8 if found.infinite > 0 else 0)
    x = Log(found.edges[0], found.edges[-1], left, right)
    floor, ceiling = _TOP + _UPPER, _TOP
    ticks = round_ticks(0.0, max(*found.rows, found.below, found.infinite), 4)
    up = Linear(0.0, ticks[-1], floor, ceiling)
    parts = [_grid(ticks, up, width), text(0, ceiling - 10, say("share_of_rows"), "label rows")]
    for at, share in enumerate(found.rows):
        parts.append(_bar(x(found.edges[at]), x(found.edges[at + 1]), floor, up(share), "bar rows"))
    if found.below > 0:
        parts.append(_bar(_LEFT, _LEFT + _END, floor, up(found.below), "bar rows"))
    if found.infinite > 0:
        start = width - _RIGHT - _END
        parts.append(_bar(start, start + _END, floor, up(found.infinite), "bar bad"))
        parts.append(text(start + _END / 2, floor + 16, "∞", "tick strong", "middle"))
    parts += _axis(found, x, floor, width, say)
    bottom = floor + _BETWEEN
    if found.loss:
        parts += _carried(found, x, bottom, width, say)
        bottom += _LOWER
    if found.certain:
        parts += _probabilities(x, bottom, width, say)
        bottom += _BOTTOM
    parts += _marks(found, x, floor, width)
    return drawing(width, bottom + 4, say("histogram_title"), _description(found, say), *parts, ids=ids)


def _bar(start: float, end: float, floor: float, top: float, style: str) -> Markup:
    # A row in a million must still be seen: no bar that stands for something is lower than a line.
    height = top - floor
    if 0 < abs(height) < 1.5:
        height = math.copysign(1.5, height)
    return box(start + 0.5, min(floor, floor + height), end - start - 1.0, abs(height), style)


def _grid(ticks: Sequence[float], scale: Linear, width: float) -> Markup:
    places = 0 if all(abs(100 * value - round(100 * value)) < 1e-9 for value in ticks) else 1
    parts = []
    for value in ticks:
        parts.append(line(_LEFT, scale(value), width - _RIGHT, scale(value), "grid" if value else "base"))
        words = percent(value, places) if value else "0"
        parts.append(text(_LEFT - 6, scale(value) + 4, words, "tick", "end"))
    return group(*parts)


def _axis(found: Losses, x: Log, floor: float, width: float, say: Speaker) -> list[Markup]:
    """The losses themselves, between the two halves."""
    parts, taken = [], 0.0
    if found.below > 0:
        words = f"<{NARROW}{number(found.edges[0], 1)}"
        parts.append(text(_LEFT - 4, floor + 16, words, "tick strong"))
        taken = _LEFT - 4 + length(words) + 8
    room = (x.end - x.start) / max(1.0, math.log10(x.high / x.low))
    step = math.ceil(46.0 / room)
    named = [value for value in x.ticks() if round(math.log10(value)) % step == 0]
    for value in x.ticks():
        parts.append(line(x(value), floor, x(value), floor + 4, "base"))
    for value in named:
        words = tick(value) + (f" {say('nats')}" if value == named[-1] else "")
        half = length(words) / 2
        at = min(x(value), x.end + 4 - half)
        if at - half > taken:
            parts.append(text(at, floor + 16, words, "tick", "middle"))
            taken = at + half + 4
    return parts


def _carried(found: Losses, x: Log, top: float, width: float, say: Speaker) -> list[Markup]:
    """What the rows above carry of the whole loss, hanging from the axis."""
    ticks = round_ticks(0.0, max(*found.loss, found.below_loss), 3)
    down = Linear(0.0, ticks[-1], top, top + _LOWER - 22)
    parts = [_grid(ticks, down, width)]
    for at, share in enumerate(found.loss):
        parts.append(_bar(x(found.edges[at]), x(found.edges[at + 1]), top, down(share), "bar loss"))
    if found.below > 0:
        parts.append(_bar(_LEFT, _LEFT + _END, top, down(found.below_loss), "bar loss"))
    parts.append(text(0, top + _LOWER - 2, say("share_of_loss"), "label loss"))
    return parts


def _probabilities(x: Log, top: float, width: float, say: Speaker) -> list[Markup]:
    """The same axis as probabilities of the label."""
    parts = [line(x.start, top + 8, x.end, top + 8, "base")]
    taken = -math.inf
    for value in _PROBABILITIES:
        at, words = (
            -math.log(value),
            percent(value, max(0, math.ceil(-math.log10(min(value, 1 - value))) - 2)),
        )
        if not x.low <= at <= x.high:
            continue
        half = length(words) / 2
        if x(at) - half < taken + 6 or x(at) + half > width:
            continue
        taken = x(at) + half
        parts += [
            line(x(at), top + 8, x(at), top + 12, "base"),
            text(x(at), top + 24, words, "tick", "middle"),
        ]
    parts.append(text(0, top + 40, say("as_probability"), "label"))
    return parts


def _marks(found: Losses, x: Log, floor: float, width: float) -> list[Markup]:
    """What is pointed out: the smaller loss with its words left of its line, the larger with them on the right."""
    marks = sorted((mark for mark in found.marks if 0 < mark[1] < math.inf), key=lambda mark: mark[1])
    parts = []
    for place, (word, value, digits) in enumerate(marks):
        at, words = x(value), f"{word} {number(value, digits)}"
        left = len(marks) > 1 and place == 0
        # Near the edge the words go to the other side of the line, a line higher up.
        room = at - 5 if left else width - at - 5
        turned = length(words, 12.5) > room
        height = 12.0 if turned else 27.0
        anchor = "end" if left != turned else "start"
        parts.append(line(at, height - 10, at, floor, "mark"))
        parts.append(text(at - 5 if anchor == "end" else at + 5, height, words, "label mark", anchor))
    return parts


def _description(found: Losses, say: Speaker) -> str:
    most = max(range(len(found.rows)), key=lambda at: found.rows[at])
    words = say(
        "histogram_description",
        low=number(found.edges[0], 2),
        high=number(found.edges[-1], 2),
        start=number(found.edges[most], 2),
        end=number(found.edges[most + 1], 2),
        share=percent(found.rows[most]),
    )
    if found.infinite > 0:
        words += " " + say("histogram_infinite", share=percent(found.infinite))
    return words
